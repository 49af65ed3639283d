"""Importing Gradio without its type stubs.

Whenever one of its components is defined, so 81 times per import, Gradio 6.31 parses the component's source, renders a
.pyi file for it and compares that with the one on disk: half of the 2.8 s that the import takes on one core, and of use
to type checkers only, which find the stubs in the installed package. Knows nothing of our page.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

STUB_MODULE = "gradio.component_meta"
STUB_WRITER = "create_or_modify_pyi"


@contextmanager
def without_stubs() -> Iterator[None]:
    """Have Gradio, if it is first imported inside the block, leave its stubs alone."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _leave_stubs(component: type, name: str, events: Sequence[object]) -> None:
    """Stand in for the function that writes the stub of one component."""


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, STUB_WRITER):  # another release of Gradio may do without, or under another name
            setattr(module, STUB_WRITER, _leave_stubs)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != STUB_MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec
