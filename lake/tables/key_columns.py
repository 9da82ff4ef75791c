"""Column types, and the key columns that tables share. Knows no table."""

from .kind import Kind
from .table import Column

TEXT, BOOL, TIME = Kind("string", "VARCHAR"), Kind("bool_", "BOOLEAN"), Kind("timestamp", "TIMESTAMPTZ")
I16, I32, I64 = Kind("int16", "SMALLINT"), Kind("int32", "INTEGER"), Kind("int64", "BIGINT")
F32, F64 = Kind("float32", "FLOAT"), Kind("float64", "DOUBLE")
I32S, I64S = Kind("int32", "INTEGER[]", is_list=True), Kind("int64", "BIGINT[]", is_list=True)
F32S, F64S = Kind("float32", "FLOAT[]", is_list=True), Kind("float64", "DOUBLE[]", is_list=True)
TEXTS = Kind("string", "VARCHAR[]", is_list=True)

VECTOR = Kind("binary", "BLOB")
"""A vector in a scan schema; files hold it as fixed-size binary of dim x width bytes, little-endian."""


def columns(*rows: tuple) -> tuple[Column, ...]:
    """Columns from (name, type, meaning[, unit[, required]])."""
    return tuple(Column(name, kind, doc, *(rest or ())) for name, kind, doc, *rest in rows)


RUN = Column("run_id", TEXT, "The run (one collection) that the row belongs to.", required=True)
SEQUENCE = Column("sequence_id", I64, "The sequence within the run: item index x samples + sample.", required=True)
POSITION = Column("position", I32, "Token index in the sequence, from 0 over prompt and completion.", "tokens", True)
STACK = Column("stack", TEXT, "`decoder`, or `encoder` for the encoder tokens of an encoder-decoder model.", None, True)
LAYER = Column("layer", I32, "Block index, 0 to L-1.", None, True)
SITE = Column(
    "site", TEXT, "Where in the block, in TransformerLens words: resid_pre, resid_post, attn_out...", None, True
)
HEAD = Column("head", I16, "Attention head index within the layer.", None, True)
KIND = Column("kind", TEXT, "`self` or `cross` attention.", None, True)
DTYPE = Column("dtype", TEXT, "Number format of the vector: float32, float16, bfloat16 or int8.", None, True)
DIM = Column("dim", I32, "Number of elements of the vector.", "elements", True)
ANALYSIS = Column("analysis_id", TEXT, "The analysis (a row of `analyses`) that computed the row.", None, True)
