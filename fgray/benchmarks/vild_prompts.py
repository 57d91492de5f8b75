"""The 63 prompt templates of ViLD (Gu et al. 2022), as CLIPSelf and FineCLIP make class embeddings with them."""

from __future__ import annotations

from collections.abc import Iterable

_BOTH = ("{article}", "the")
_KINDS = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
_PHOTOS = ("bright", "dark", "low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated")
_THINGS = ("a plastic", "the plastic", "a toy", "the toy", "a plushie", "the plushie", "a cartoon", "the cartoon")


def _templates() -> list[str]:
    found = [f"There is {one} {{}} in the scene." for one in _BOTH]
    found += [f"a photo of {one} {{}} in the scene." for one in (*_BOTH, "one")]
    found += [f"itap of {one} {{}}." for one in ("{article}", "my", "the")]
    found += [f"a photo of {one} {{}}." for one in ("{article}", "my", "the", "one", "many")]
    found += [f"a {quality} photo of {one} {{}}." for quality in ("good", "bad") for one in _BOTH]
    found += [f"a photo of {one} {kind} {{}}." for kind in _KINDS for one in ("a", "the")]
    found += [f"a {quality} photo of {one} {{}}." for quality in _PHOTOS for one in _BOTH]
    found += [f"a black and white photo of {one} {{}}." for one in ("the", "{article}")]
    found += [f"{one} {{}}." for one in (*_THINGS, "an embroidered", "the embroidered", "a painting of the", "a painting of a")]
    return ["This is " + template if template.startswith(("a", "the")) else template for template in found]


VILD_TEMPLATES: tuple[str, ...] = tuple(_templates())
"""``{}`` is the place of the class's name, ``{article}`` that of "a" or "an"."""


def class_text(name: str) -> str:
    """Return a class's name as it stands in the prompts: lower case, ``_`` as a blank, ``/`` as " or ", no full stop at the end."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


def article(name: str) -> str:
    """Return "an" before a name that begins with one of a, e, i, o, u in lower case, else "a"."""
    return "an" if name[:1] in tuple("aeiou") else "a"


def class_prompts(name: str, templates: Iterable[str] = VILD_TEMPLATES) -> list[str]:
    """Return a class's prompts; its embedding is the normalised mean of their normalised embeddings."""
    return [template.replace("{article}", article(name)).replace("{}", class_text(name)) for template in templates]
