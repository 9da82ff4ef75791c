"""What a table is: its columns, its key and how its files are laid out. The tables themselves are in `schema`."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .kind import Kind

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its type, what it means, and its unit where it has one."""

    name: str
    kind: Kind
    doc: str
    unit: str | None = None
    required: bool = False

    @property
    def type(self) -> "pa.DataType":
        """The Arrow type."""
        return self.kind.arrow


@dataclass(frozen=True)
class Table:
    """One table: columns in file order, the key that is unique, and the key rows are sorted by."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    kind: Literal["observation", "derived", "view"] = "observation"
    partitions: tuple[str, ...] = ()
    row_group_rows: int = 1_000_000
    compressed: bool = True
    vector: str | None = None

    def __post_init__(self) -> None:
        if floats := [one.name for one in self.columns if one.name in self.key and one.kind.is_float]:
            raise TypeError(f"{self.name}: the key column {floats[0]} is a float: equal values need not be equal.")

    @cached_property
    def schema(self) -> "pa.Schema":
        """The Arrow schema that readers see (vectors as plain binary)."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, c.type, nullable=not c.required) for c in self.columns])

    @property
    def names(self) -> list[str]:
        """Column names in file order."""
        return [c.name for c in self.columns]

    def column(self, name: str) -> Column:
        """The column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}")
