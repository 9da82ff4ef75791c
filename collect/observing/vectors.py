"""Which vectors are to be stored: `--keep activations:...` for the stacks of a model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ...lake.errors import ConfigError
from ..configuration.keep import EVERY_SITE, ActivationKeep, Keep
from ..models.model import LoadedModel
from ..models.sites.rotary_calls import turns
from ..models.sites.site_names import ATTENTION_SITES, CROSS_SITES, ROTARY_SITES, SITES
from ..models.sites.taps import Tap
from ..models.stack import CROSS, DECODER, SELF, Stack
from .attention import observing
from .attention_layers import ObservableAttention, observers_of


@dataclass(frozen=True)
class KeptVectors:
    """Vectors of one site and layer to be stored; `scope` is None (all rows), prompt, generated or last."""

    site: str
    layer: int
    scope: str | None
    stack: str = DECODER

    @property
    def name(self) -> str:
        return f"vector/{self.site}/{self.layer}/{self.scope or 'all'}"

    @property
    def lost(self) -> str:
        """Name of the largest value that the stored format could not hold, see `largest_lost`."""
        return f"lost/{self.name}"


def each_once(kept: Iterable[KeptVectors], *, generates: bool) -> tuple[KeptVectors, ...]:
    """The same vectors without repetitions: where scopes of one site and layer overlap, the wider one stays."""
    scopes: dict[tuple[str, str, int], set[str | None]] = {}
    for item in kept:
        scopes.setdefault((item.stack, item.site, item.layer), set()).add(item.scope)
    found: list[KeptVectors] = []
    for (stack, site, layer), names in scopes.items():
        if None in names or {"prompt", "generated"} <= names:
            names = {None}
        elif ("generated" if generates else "prompt") in names:
            names = names - {"last"}
        found += [KeptVectors(site, layer, scope, stack) for scope in sorted(names, key=str)]
    return tuple(found)


def kept_vectors(keep: Keep, stacks: Iterable[Stack], *, observe_prompt: bool) -> list[KeptVectors]:
    """The vectors that `--keep` asks for, of every stack that has the site; ConfigError where none has it."""
    stacks = tuple(stacks)
    deepest = max(stack.n_layers for stack in stacks)
    everywhere = None if observe_prompt else "generated"
    found = []
    for item in keep.activations:
        having = [stack for stack in stacks if CROSS in stack.kinds or item.site not in CROSS_SITES]
        if not having:
            raise ConfigError(f"Site {item.site} exists only in the decoder of an encoder-decoder model.")
        for stack in having:
            scope = item.scope or everywhere
            # An encoder reads prompts only.
            if stack.name == DECODER or scope in (None, "prompt"):
                layers = item.resolve(stack.n_layers, deepest)
                found += [KeptVectors(item.site, layer, scope, stack.name) for layer in layers]
    return found


def with_every_site(
    keep: Keep, loaded: LoadedModel, attention: ObservableAttention, notice: Callable[[str], None]
) -> Keep:
    """`activations:all` spelled out: the sites that this model has, with a notice of those that it has not."""
    items: list[ActivationKeep] = []
    for item in keep.activations:
        if item.site != EVERY_SITE:
            items.append(item)
            continue
        missing = {}
        crosses = any(CROSS in stack.kinds for stack in loaded.stacks)
        for site in (site for site in SITES if crosses or site not in CROSS_SITES):
            one = replace(item, site=site)
            try:
                kept = kept_vectors(replace(keep, activations=(one,)), loaded.stacks, observe_prompt=True)
                check_attention_sites(kept, loaded, attention)
                # A shell cannot be run: there the other sites are counted, though a block may not have them all.
                for stack in () if loaded.is_shell else loaded.stacks:
                    places = {(w.site, w.layer) for w in kept if w.stack == stack.name}
                    Tap(stack.anatomy, {place for place in places if site not in (*ATTENTION_SITES, "final_norm")})
            except ConfigError as error:
                missing[site] = str(error)
            else:
                items.append(one)
        if missing:
            notice(f"activations:all keeps every site but {', '.join(missing)}: {next(iter(missing.values()))}")
    return replace(keep, activations=tuple(items))


def check_attention_sites(kept: Iterable[KeptVectors], loaded: LoadedModel, attention: ObservableAttention) -> None:
    """ConfigError for vectors that come from the attention function, where it is not called or has several of them."""
    stacks = {stack.name: stack for stack in loaded.stacks}
    kept = [item for item in kept if item.site in ATTENTION_SITES]
    for item in kept:
        layers = attention.layers_of(stacks[item.stack], SELF)
        if item.layer not in layers:
            possible = f"Possible: activations:{item.site}@{','.join(map(str, layers))}." if layers else ""
            raise ConfigError(
                f"Site {item.site} of layer {item.layer} cannot be kept: {attention.reason}. "
                f"{possible or 'Leave it out of --keep.'}"
            )
        if item.site == "v" and (item.stack, SELF) in attention.twice:
            raise ConfigError(
                f"Site v cannot be kept: {type(loaded.model).__name__} weighs two sets of values with the same "
                "attention. Leave it out of --keep."
            )
    if any(item.site in ROTARY_SITES for item in kept) and not loaded.is_shell:
        _check_rotary_inputs(loaded)


def _check_rotary_inputs(loaded: LoadedModel) -> None:
    """ConfigError if what is seen before the rotary embedding is not what the attention function then sees, turned."""
    observers, modules = observers_of(loaded, capture=frozenset(("q", "k", "rot_q", "rot_k")))
    with observing(loaded.model, modules):
        loaded.probe()
    why = ""
    for (_, kind), observer in observers.items():
        if kind == SELF and not observer.entered and turns(loaded.model):
            why = "does not hand both to a function of transformers"
        elif not all(observer.turned.values()):
            why = "does more than turn what it hands over"
    if why:
        raise ConfigError(
            f"Sites q and k cannot be kept: {type(loaded.model).__name__} has a rotary embedding, and {why}. "
            "Use rot_q and rot_k (after it)."
        )
