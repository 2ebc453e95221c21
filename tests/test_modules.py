"""Modules travel, or are found over there: packages of every kind, their data, and what is installed.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import (
    DeliveryPackingError,
    deliver,
    packing,
)


def test_imports_that_this_python_does_not_run(project: Any) -> None:
    project(
        {
            "either/__init__.py": "import sys\nif sys.version_info >= (3, 99):\n    from .new import value\nelse:\n    from .old import value\n",
            "either/new.py": "this is = no Python of today\n",
            "either/old.py": "value = 4\n",
            "plug/__init__.py": "import importlib\ndef load():\n    return importlib.import_module('.plugin', __package__).value\n",
            "plug/plugin.py": "value = 5\n",
        }
    )
    import either  # type: ignore[import-not-found]
    import plug  # type: ignore[import-not-found]

    assert deliver(lambda: (either.value, plug.load()))() == (4, 5)
    names = {entry.name for entry in deliver(lambda: (either.value, plug.load())).manifest()}
    assert {"either.old", "plug.plugin"} <= names and not [name for name in names if name.startswith(".")]


def test_folders_without_init_travel_though_nothing_has_imported_them(project: Any) -> None:
    folder = project(
        {
            "outer/__init__.py": "",
            "outer/plugins/deep/one.py": "value = 7\n",
            "outer/data/text.txt": "",
            "nameless/sub/leaf.py": "value = 8\n",
        }
    )
    (folder / "nameless" / "sub" / "again").symlink_to("..")

    def work() -> Any:
        import importlib

        from outer.plugins.deep import one  # type: ignore[import-not-found]

        return one.value, importlib.import_module(".".join(["nameless", "sub", "leaf"])).value

    assert "outer" not in sys.modules
    runner = deliver(transport=conftest.need_sudo(), modules=["nameless", "outer"])(work)
    assert {entry.name for entry in runner.manifest()} == {
        *("outer", "outer.plugins", "outer.plugins.deep", "outer.plugins.deep.one"),
        *("nameless", "nameless.sub", "nameless.sub.leaf"),
    }
    assert runner() == (7, 8) and "outer" not in sys.modules
    without = deliver(modules=["nameless"])(work)
    assert "outer.plugins.deep.one" in {entry.name for entry in without.manifest()}


def test_packages_that_look_elsewhere_for_their_modules(project: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lazy.py").write_text("value = 6\n")
    project({"looks/__init__.py": f"__path__ = [*__path__, {str(tmp_path / 'elsewhere')!r}]\n"})
    import looks  # type: ignore[import-not-found] # noqa: F401

    def work() -> Any:
        from looks import lazy  # type: ignore[import-not-found]

        return lazy.value

    assert "looks.lazy" in {entry.name for entry in deliver(work).manifest()} and deliver(work)() == 6


def test_packages_in_many_places_travel_though_one_of_them_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, own = tmp_path / "site-packages" / "company" / "lib", tmp_path / "src" / "company" / "app"
    for folder in (installed, own):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"name = {folder.name!r}\n")
    for folder in (own.parent.parent, installed.parent.parent):
        monkeypatch.syspath_prepend(str(folder))
    import company.app  # type: ignore[import-not-found]

    work = deliver(lambda: company.app.name)
    found = {entry.name for entry in work.manifest() if entry.by_value}
    assert {"company", "company.app"} <= found, found
    assert work() == "app"
    for name in [name for name in sys.modules if name.partition(".")[0] == "company"]:
        del sys.modules[name]


def test_dataclasses_made_by_functions_whose_annotations_are_text(project: Any, chain: Any) -> None:
    project(
        {
            "postponed.py": "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n\nvalue = 8\n\n"
            "def make():\n    @dataclasses.dataclass\n    class P:\n        x: int = 1\n        shared: ClassVar[int] = 5\n"
            "    return P().x, len(dataclasses.fields(P))\n\n"
            "def again():\n    import postponed\n    return make(), postponed.value, hasattr(postponed, '__file__')\n",
        }
    )
    import postponed  # type: ignore[import-not-found]

    assert deliver(transport=chain)(postponed.make)() == (1, 1)
    assert deliver(transport=chain)(postponed.again)() == ((1, 1), 8, True)


def test_modules_of_a_class_of_their_own_travel(project: Any) -> None:
    project(
        {
            "odd.py": "import sys, types\nclass Odd(types.ModuleType):\n    @property\n    def value(self):\n        return 7\n"
            "sys.modules[__name__].__class__ = Odd\n"
        }
    )
    import odd  # type: ignore[import-not-found]

    assert deliver(lambda: odd.value)() == 7


def test_links_among_data_files_end(project: Any) -> None:
    folder = project({"linked/__init__.py": "import importlib.resources\n", "linked/data/x.txt": "x"})
    for name in ("latest", "current"):
        (folder / "linked" / "data" / name).symlink_to(".")
    import linked  # type: ignore[import-not-found]

    (entry,) = [entry for entry in deliver(lambda: linked.__name__).manifest() if entry.name == "linked"]
    assert entry.size < 2000


PACKAGE = {
    "shop/__init__.py": "NAME = 'shop'\n",
    "shop/prices.py": "from . import tax\nfrom .deep.down import bottom\ndef price(x):\n    return tax.add(x) + bottom()\n",
    "shop/tax.py": "import json\ndef add(x):\n    return x + json.loads('1')\n",
    "shop/deep/__init__.py": "",
    "shop/deep/down.py": "import plain\ndef bottom():\n    return plain.ZERO\n",
    "shop/unused.py": "raise RuntimeError('nobody asked for this')\n",
    "plain.py": "ZERO = 0\nfrom spaced.inner import thing\n",
    "spaced/inner/thing.py": "VALUE = 'namespace'\n",
    "huge.bin": b"x" * 3_000_000,
}


def test_modules_travel_in_every_spelling(project: Any, chain: Any) -> None:
    project(
        {
            **PACKAGE,
            "spelled.py": """
import shop.prices
import shop.prices as sp
from shop.prices import price
from shop import tax as renamed
import plain

def dotted(x): return shop.prices.price(x)
def aliased(x): return sp.price(x)
def named(x): return price(x)
def renaming(x): return renamed.add(x)
def single(): return plain.thing.VALUE
def inside(x):
    import shop.prices
    from shop.deep import down
    return shop.prices.price(x) + down.bottom()
def dynamic():
    import importlib
    return importlib.import_module("shop.tax").add(1)
""",
        }
    )
    import spelled  # type: ignore[import-not-found]

    send = functools.partial(deliver, **{"transport": chain, "cwd": "/"})
    for function in (spelled.dotted, spelled.aliased, spelled.named, spelled.renaming, spelled.inside):
        assert send()(function)(4) == 5, function
    assert send()(spelled.single)() == "namespace"
    assert send()(spelled.dynamic)() == 2


def test_manifest_lists_what_travels_and_why(project: Any) -> None:
    project(
        {**PACKAGE, "user.py": "import shop.prices, numpy, json\ndef f(x):\n    numpy.zeros(1)\n    return shop.prices.price(x)\n"}
    )
    import user  # type: ignore[import-not-found]

    manifest = {entry.name: entry for entry in deliver(user.f).manifest(1)}
    assert {"shop", "shop.prices", "shop.tax", "shop.deep", "shop.deep.down", "plain", "spaced.inner.thing"} <= set(manifest)
    assert not {"json", "user", "shop.unused"} & set(manifest)
    assert manifest["shop.tax"].by_value and manifest["shop.tax"].size > 0 and "shop.prices" in manifest["shop.tax"].reason
    assert not manifest["numpy"].by_value and manifest["numpy"].size == 0 and "installed" in manifest["numpy"].reason
    assert sum(entry.size for entry in manifest.values()) < 100_000, "the huge file next to plain.py stays"
    text = str(deliver(user.f).manifest(1))
    assert "shop.tax" in text and "by value" in text and "by reference" in text


def test_packages_with_machine_code_travel_without_it_and_all_in_the_order_of_the_code(project: Any) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    names = ["mixed", *(f"piece_{letter}" for letter in "hbeagcdf")]
    project({f"mixed/_fast{suffix}": "", "mixed/__init__.py": "value = 3\n", **{f"{name}.py": "" for name in names[1:]}})
    lines = [
        "try:",
        "    import mixed._fast",
        "except ImportError:",
        "    pass",
        "import mixed",
        *(f"import {name}" for name in names[1:]),
    ]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def work():\n    " + "\n    ".join([*lines, "return mixed.value"]), namespace)
    entries = {entry.name: entry for entry in deliver(namespace["work"]).manifest()}
    assert entries["mixed"].by_value and "machine code" in entries["mixed._fast"].reason
    assert [module.name for module in packing.pack(namespace["work"], (), {}).modules] == names
    assert deliver(transport=conftest.need_sudo())(namespace["work"])() == 3


def test_module_of_the_function_itself_is_not_imported_there(project: Any) -> None:
    project(
        {
            "heavy.py": "import os, not_needed_there\nCONSTANT = 4\ndef f():\n    return CONSTANT + os.getuid() * 0\n",
            "not_needed_there.py": "",
        }
    )
    import heavy  # type: ignore[import-not-found]

    assert not deliver(heavy.f).manifest()
    assert deliver(heavy.f)() == 4


def test_module_that_imports_the_functions_own_exists_only_once(project: Any) -> None:
    project(
        {
            "first.py": "import second\nfrom deliveryboy_ng import deliver\nclass Thing: pass\nstate = []\n@deliver\n"
            "def f():\n    state.append(1)\n    return second.look(), isinstance(second.make(), Thing)\n",
            "second.py": "import first\ndef look(): return list(first.state)\ndef make(): return first.Thing()\n",
        }
    )
    import first  # type: ignore[import-not-found]

    assert first.f() == ([1], True)
    assert first.f.with_options(transport=conftest.need_sudo(), executable=conftest.system_python())() == ([1], True)


def test_installed_distributions_go_by_reference_unless_named() -> None:
    def work() -> str:
        import iniconfig

        return iniconfig.__file__

    assert {e.name: e.by_value for e in deliver(work).manifest()} == {"iniconfig": False}
    runner = deliver(transport=conftest.need_sudo(), executable=conftest.system_python(), modules=["iniconfig"])(work)
    assert {e.name: e.by_value for e in runner.manifest()}["iniconfig"]
    assert runner().endswith("iniconfig/__init__.py")
    with pytest.raises(DeliveryPackingError, match="no module named 'nonexistent'"):
        deliver(modules=["nonexistent"])(work)()


def test_module_missing_over_there_is_a_clear_error() -> None:
    def work() -> str:
        import iniconfig

        return iniconfig.__name__

    with pytest.raises(ModuleNotFoundError, match="iniconfig"):
        deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(work)()


def test_data_files_are_read_through_importlib_resources(project: Any, chain: Any) -> None:
    project(
        {
            "texts/__init__.py": "import importlib.resources\nimport pkgutil\n"
            "def read():\n"
            "    files = importlib.resources.files(__name__)\n"
            "    return ((files / 'greeting.txt').open('r', 'utf-8').read(), files.joinpath('more/deep.bin').read_bytes(),\n"
            "            sorted(e.name for e in files.iterdir() if not e.name.startswith('__')), pkgutil.get_data(__name__, 'greeting.txt'))\n",
            "texts/greeting.txt": "hällo\n",
            "texts/more/deep.bin": bytes(range(256)),
        }
    )
    import texts  # type: ignore[import-not-found]

    def work() -> Any:
        return texts.read()

    text, deep, names, data = deliver(transport=chain, cwd="/")(work)()
    assert text == "hällo\n" and deep == bytes(range(256)) and data == "hällo\n".encode()
    assert set(names) >= {"greeting.txt", "more"}


def test_functions_read_the_data_files_of_their_own_package(project: Any) -> None:
    project(
        {
            "beside/__init__.py": "",
            "beside/reader.py": "import importlib.resources as resources, pkgutil\nfrom importlib.resources import files\n"
            "def by_package(): return files(__package__).joinpath('data.txt').read_text()\n"
            "def by_name(): return resources.read_text('beside', 'data.txt')\n"
            "def by_module(): return pkgutil.get_data(__name__, 'data.txt').decode()\n"
            "def made():\n    def nested():\n        import pkgutil\n"
            "        return pkgutil.get_data(__name__.rpartition('.')[0], 'data.txt').decode()\n    return nested\n"
            "def of_another(): return files('beside.others').joinpath('data.txt').read_text()\n"
            "def with_pkgutil(): return pkgutil.get_data('beside.others', 'data.txt').decode()\n"
            "def of_files(path): return path.files.get('beside.others'), path.read_text('beside.others')\n"
            "def as_before(): return resources.read_text('beside.others', 'data.txt')\n",
            "beside/data.txt": "text",
            "beside/others/__init__.py": "",
            "beside/others/data.txt": "text",
        }
    )
    from beside import reader  # type: ignore[import-not-found]

    sudo = conftest.need_sudo()
    others = (reader.of_another, reader.with_pkgutil, reader.as_before)
    assert not any(entry.by_value for entry in deliver(reader.of_files).manifest(None)), "that is no package's name"
    for function in (reader.by_package, reader.by_name, reader.by_module, reader.made(), *others):
        assert deliver(transport=sudo)(function)() == "text", function


def test_data_files_in_packages_of_data_travel_with_the_package_around_them_and_once(project: Any) -> None:
    folder = project(
        {
            "goods/__init__.py": "",
            "goods/reader.py": "from importlib.resources import files\n"
            "def within(path): return files('goods').joinpath(path).read_text()\n"
            "def both(): return within('data/rates.txt'), files('goods.data').joinpath('rates.txt').read_text()\n",
            "goods/data/__init__.py": "",
            "goods/data/rates.txt": "x" * 100_000,
            "goods/data/eu/__init__.py": "",
            "goods/data/eu/rates.txt": "eu",
            "goods/code/__init__.py": "",
            "goods/code/module.py": "",
            "goods/code/left.txt": "nobody's",
            "goods/mixed/__init__.py": "",
            "goods/mixed/deeper/module.py": "",
            "goods/mixed/left.txt": "nobody's",
        }
    )
    (folder / "goods/data/loop").symlink_to("../data")
    from goods import reader  # type: ignore[import-not-found]

    assert deliver(reader.within)("data/eu/rates.txt") == "eu"
    receipt = deliver(reader.both).run()
    assert receipt.value == ("x" * 100_000,) * 2 and receipt.usage.sent < 200_000
    for name in ("code", "mixed"):
        with pytest.raises(FileNotFoundError):
            deliver(reader.within)(f"{name}/left.txt")


def test_packages_in_archives_travel_without_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "things.zip", "w") as archive:
        archive.writestr(
            "zipped/__init__.py",
            "import pkgutil\ndef name():\n    return __name__\ndef data():\n    return pkgutil.get_data(__name__, 'x.txt')",
        )
        archive.writestr("zipped/x.txt", "data")
    monkeypatch.syspath_prepend(str(tmp_path / "things.zip"))
    import zipped  # type: ignore[import-not-found]

    assert zipped.data() == b"data" and deliver(lambda: zipped.name())() == "zipped"


def test_data_files_that_cannot_be_read_are_a_packing_error(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project({"read_it/__init__.py": "import importlib.resources\ndef f():\n    return 1\n", "read_it/data.txt": "x"})
    import read_it  # type: ignore[import-not-found]

    def refuse(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DeliveryPackingError, match="data files of package read_it cannot be read: .*Input/output"):
        deliver(lambda: read_it.f()).run()


def test_data_files_that_are_not_ones_to_read_fail_where_they_are_read(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project(
        {
            "holds/__init__.py": "import pkgutil\nfrom importlib.resources import files\n"
            "def text(name):\n    return files(__name__).joinpath(name).read_text(), pkgutil.get_data(__name__, name)\n",
            "holds/data/open.txt": "x",
            "holds/data/secret.txt": "y",
            "holds/closed/deeper/inner.txt": "y",
            "lister/data.txt": "z",
            "lister/__init__.py": "import pkgutil\ndef f():\n    return len(list(pkgutil.iter_modules([])))\n",
        }
    )
    import holds  # type: ignore[import-not-found]
    import lister  # type: ignore[import-not-found]

    read, listed = Path.read_bytes, Path.iterdir

    def refuse(path: Path) -> bytes:
        if path.name == "secret.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    def refuse_to_list(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse_to_list)
    sudo = conftest.need_sudo()
    work = deliver(transport=sudo)(lambda name: holds.text(name))
    assert work("data/open.txt") == ("x", b"x")
    for name in ("data/secret.txt", "closed/deeper/inner.txt"):
        receipt = work.run(name)
        assert isinstance(receipt.exception, PermissionError) and name in str(receipt.exception)
    with pytest.raises(DeliveryPackingError, match="data files of package holds cannot be read: .*closed"):
        work.with_options(modules=["holds"]).run("data/open.txt")
    monkeypatch.setattr(Path, "read_bytes", None)
    assert deliver(transport=sudo)(lambda: lister.f())() == 0


def test_editable_installs_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install finds its modules by an import hook; the far side has neither hook nor files."""
    folder = tmp_path / "checkout"
    folder.mkdir(mode=0o700)
    (folder / "edited_module.py").write_text("from edited_sub import value\ndef f():\n    return value\n")
    (folder / "edited_sub.py").write_text("value = 11\n")

    class Hook:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            file = folder / f"{name}.py"
            return importlib.util.spec_from_file_location(name, file) if name.startswith("edited_") else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook])
    import edited_module  # type: ignore[import-not-found]

    try:
        assert deliver(transport=conftest.need_sudo())(lambda: edited_module.f())() == 11
    finally:
        for name in ("edited_module", "edited_sub"):
            sys.modules.pop(name, None)


def test_marks_of_modules_that_were_loaded_again(project: Any) -> None:
    project({"marked.py": "MISSING = object()\n"})
    import marked  # type: ignore[import-not-found]

    @deliver
    def is_missing(found: object) -> bool:
        return found is marked.MISSING

    before = marked.MISSING
    assert is_missing(before)
    importlib.reload(marked)
    assert not is_missing(before) and is_missing(marked.MISSING)


def test_modules_that_are_half_saved_or_gone_travel_as_they_last_did(project: Any) -> None:
    folder = project({"saved.py": "value = 14\n", "broken.py": "value = 15\n"})
    import broken  # type: ignore[import-not-found]
    import saved  # type: ignore[import-not-found]

    work = deliver(lambda: saved.value)
    assert work() == 14
    for name in ("saved.py", "broken.py"):
        (folder / name).write_text("def half(")
    assert work() == 14
    (folder / "saved.py").write_text("value = 1600\n")
    assert work() == 1600 and saved.value == 14
    (folder / "saved.py").unlink()
    assert work() == 1600
    with pytest.raises(DeliveryPackingError, match="module broken cannot be compiled"):
        deliver(lambda: broken.value)()
    (folder / "broken.py").unlink()
    with pytest.raises(DeliveryPackingError, match="module broken .* has neither source nor code"):
        deliver(lambda: broken.value)()


class Kept:
    """Imports modules from a dict; *tree* is no file's name."""

    tree = {"kept": "import importlib.resources\nfrom .inner import value\n", "kept.inner": "value = 12\n"}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self, is_package=name == "kept") if name in self.tree else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        exec(self.tree[module.__name__], vars(module))

    def get_source(self, name: str) -> str:
        return self.tree[name]


def test_modules_without_a_file_travel_if_their_loader_has_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Kept()])
    import kept  # type: ignore[import-not-found]

    try:
        assert deliver(lambda: kept.value)() == 12
        assert sum(entry.size for entry in deliver(lambda: kept.value).manifest()) < 1000, "no data files of this folder"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(Kept.tree, "kept.inner", "value = 13\n")
            assert deliver(lambda: kept.value)() == 13
        assert not deliver(lambda: sys.implementation.name).manifest()

        class Fails:
            def get_source(self, name: str) -> str:
                raise KeyError(name)

        fails = types.ModuleType("fails")
        fails.__spec__ = importlib.machinery.ModuleSpec("fails", Fails())  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "fails", fails)
        with pytest.raises(ModuleNotFoundError, match="fails"):
            deliver(lambda: importlib.import_module("fails"))()
    finally:
        for name in Kept.tree:
            sys.modules.pop(name, None)


def test_modules_that_exist_only_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("made_by_hand")
    exec("def f():\n    return 1\n", vars(made))
    monkeypatch.setitem(sys.modules, "made_by_hand", made)

    def work() -> Any:
        import made_by_hand  # type: ignore[import-not-found]

        return made_by_hand.f()

    with pytest.raises(DeliveryPackingError, match="module made_by_hand exists only in this process") as caught:
        deliver(lambda: made.f())()
    assert caught.value.path == "module made_by_hand"
    with pytest.raises(ModuleNotFoundError, match="made_by_hand"):
        deliver(work)()
    assert deliver(made.f)() == 1


def test_tracebacks_of_shipped_modules_show_source_lines(project: Any, chain: Any) -> None:
    import traceback

    project({"breaks.py": "def deeper(x):\n    return 1 / x  # the culprit\n\ndef f(x):\n    return deeper(x)\n"})
    import breaks  # type: ignore[import-not-found]

    def work() -> str:
        import traceback

        try:
            breaks.f(0)
        except ZeroDivisionError:
            there = traceback.format_exc()
        assert "the culprit" in there, there
        return breaks.f(0)

    with pytest.raises(ZeroDivisionError) as caught:
        deliver(transport=chain, cwd="/")(work)()
    text = "".join(traceback.format_exception(caught.value))
    # Of a call that is not trusted no frame names a file of this side's.
    assert f'{breaks.__file__}", line 2, in deeper' in text or f'{breaks.__file__}>", line 2, in deeper' in text
    assert "return 1 / x  # the culprit" in text


def test_cached_function_of_another_module_goes_by_reference(project: Any) -> None:
    project({"caching.py": "import functools\n@functools.cache\ndef f(x):\n    return 2 * x\n"})
    import caching  # type: ignore[import-not-found]

    assert deliver(lambda: caching.f(2))() == 4
    assert deliver(lambda f: f(3))(caching.f) == 6
    assert deliver(caching.f)(4) == 8


def test_machine_code_named_in_modules_is_refused() -> None:
    with pytest.raises(DeliveryPackingError, match="machine code"):
        deliver(modules=["numpy"])(lambda: __import__("numpy").ones(3).sum())()


def test_distributions_installed_into_a_folder_are_installed(project: Any) -> None:
    project(
        {
            "vendored_lib.py": "X = 1\n",
            "vendored_lib-1.dist-info/RECORD": "vendored_lib.py,,\nvendored_lib-1.dist-info/RECORD,,\n",
            "own_lib.py": "Y = 2\n",
        }
    )
    import own_lib  # type: ignore[import-not-found]
    import vendored_lib  # type: ignore[import-not-found]

    assert {e.name: e.by_value for e in deliver(lambda: vendored_lib.X + own_lib.Y).manifest()} == {
        "vendored_lib": False,
        "own_lib": True,
    }


def test_another_environment_of_the_same_python_has_its_own_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = tmp_path / "lib" / version / "site-packages"
    (packages / "only_there.py").write_text("VALUE = 5")

    def find() -> tuple[int, str]:
        import importlib
        import sys

        return importlib.import_module("only" + "_there").VALUE, sys.prefix

    assert deliver(executable=str(tmp_path / "bin" / "python"))(find)() == (5, str(tmp_path))


POOL = """
import multiprocessing

def plus_one(x):
    return x + 1

def by_pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(plus_one, [1, 2])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_find_functions_of_a_home_that_travels_as_a_module(project: Any, method: str) -> None:
    project({"home_with_a_pool.py": POOL})
    import home_with_a_pool  # type: ignore[import-not-found]

    assert deliver(modules=["home_with_a_pool"], timeout=60)(home_with_a_pool.by_pool)(method) == [2, 3]
