"""What people, drivers and clusters call a GPU: one name in many spellings.

``H100-SXM5-80GB``, ``nvidia-h100-80gb-hbm3`` and ``NVIDIA_H100_80GB_HBM3`` are one GPU. A name is read as the
product, the memory it says in GB and the form it says; makers and product lines say nothing. Whatever is said
must be true of the GPU meant: an ``A100 64GB`` is none that is known, and a laptop's GPU is not the card of
its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_SAYS_NOTHING = frozenset({
    "nvidia", "amd", "tesla", "geforce", "quadro", "radeon", "instinct", "graphics", "card", "gpu",
    "accelerator", "generation", "edition", "tensor", "core", "oam", "hgx", "dgx",
})  # fmt: skip
_MEMORY_KIND = re.compile(r"hbm\d*e?|gddr\d*x?")
_FORM = re.compile(r"(sxm|pcie|nvl)\d*")
_SIZE = re.compile(r"(?<![a-z0-9])(\d{1,4})[ _-]?gi?b?(?![a-z0-9])")
_DIGITS_MEET = re.compile(r"(?<=\d) (?=\d)")


@dataclass(frozen=True, slots=True)
class Called:
    """A name, read: ``product`` without spaces, ``sizes`` of memory in GB, ``forms`` (sxm, pcie, nvl)."""

    product: str
    sizes: frozenset[int]
    forms: frozenset[str]

    @classmethod
    def read(cls, text: str) -> Called:
        """The name that ``text`` spells."""
        lower = text.casefold()
        words, forms = [], set()
        for word in re.split(r"[\W_]+", _SIZE.sub(" ", lower)):
            if form := _FORM.fullmatch(word):
                forms.add(form.group(1))
            elif word not in _SAYS_NOTHING and not _MEMORY_KIND.fullmatch(word):
                words.append(word)
        # Numbers stay apart: an "A10 0" is no A100.
        product = _DIGITS_MEET.sub("-", " ".join(words)).replace(" ", "")
        return cls(product, frozenset(int(size) for size in _SIZE.findall(lower)), frozenset(forms))


def meant(text: str, names: Mapping[str, Sequence[str]], memory_gb: Callable[[str], int]) -> str | None:
    """The GPU that ``text`` means, if it is one.

    Of several that it may mean: the one that has a name of just these parts, then the one that is called by
    the bare product.

    Args:
        text: as somebody spells it.
        names: all names of every GPU, by its own.
        memory_gb: of a GPU, by its own name, as its datasheet says.
    """
    wanted = Called.read(text)
    if not wanted.product:
        return None
    fitting: dict[str, list[Called]] = {}
    for own, spellings in names.items():
        known = [called for called in map(Called.read, spellings) if called.product == wanted.product]
        if known and _true_of(wanted, known, own, memory_gb):
            fitting[own] = known
    bare = Called(wanted.product, frozenset(), frozenset())
    for called in (wanted, bare):
        found = [own for own, known in fitting.items() if called in known]
        if len(found) == 1:
            return found[0]
    return next(iter(fitting)) if len(fitting) == 1 else None


def _true_of(wanted: Called, known: Sequence[Called], own: str, memory_gb: Callable[[str], int]) -> bool:
    # A card of which no name says its form is one for PCIe.
    forms = frozenset[str]().union(*(called.forms for called in known)) or frozenset({"pcie"})
    sizes = frozenset[int]().union(*(called.sizes for called in known))
    return wanted.forms <= forms and (wanted.sizes <= sizes or wanted.sizes <= {memory_gb(own)})
