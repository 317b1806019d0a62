"""gradio, imported in two thirds of the time: without the type stubs that it makes for editors at every start."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

MAKER = "gradio.component_meta"


class _Loader(SourceFileLoader):
    """Loads the module that makes the stubs, and takes that function away."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        # It parses each component's source and compiles a template for it, in all 1.5 s on 2 cores, to write a file
        # beside the source that no program reads.
        module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]  # a module takes any attribute


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == MAKER else None
        if spec and spec.origin:
            spec.loader = _Loader(name, spec.origin)
        return spec


def without_stubs() -> None:
    """Let a later `import gradio`, in this process and for good, make no stubs."""
    sys.meta_path.insert(0, _Finder)
