"""What must hold of the code itself: the worker's contract, the error tree, the public names."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OTHERS

import deliveryboy_ng
from deliveryboy_ng import exceptions, receipt, workertext
from deliveryboy_ng.worker import standin

PACKAGE = Path(deliveryboy_ng.__file__).parent
WORKER = sorted((PACKAGE / "worker").glob("*.py"))


@pytest.mark.parametrize("path", WORKER, ids=lambda path: path.stem)
def test_worker_imports_only_the_standard_library_and_itself(path: Path) -> None:
    names = {p.stem for p in WORKER}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and {alias.name for alias in node.names} <= names
            continue
        elif isinstance(node, ast.ImportFrom):
            imported = [str(node.module)]
        else:
            continue
        for name in imported:
            top = name.partition(".")[0]
            # The one place that looks for the library itself falls back where it is not installed.
            assert top in sys.stdlib_module_names or (path.stem, top) == ("standin", "deliveryboy_ng"), (
                f"{path.name} imports {name}"
            )


@pytest.mark.parametrize("path", WORKER, ids=lambda path: path.stem)
def test_worker_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
    for version, python in OTHERS.items():
        result = subprocess.run(
            [python, "-c", f"compile(open({str(path)!r}).read(), 'x', 'exec')"], capture_output=True, check=False
        )
        assert result.returncode == 0, (version, result.stderr)


def test_worker_is_sent_whole() -> None:
    assert {path.stem for path in WORKER} == {
        *workertext.MODULES,
        *workertext.FOR_DATA,
        *workertext.FOR_GUARDED,
        *workertext.FOR_CONFINED,
        *workertext.FOR_TEMPLATE,
        "__init__",
        "assembler",
    }
    assert (PACKAGE / "worker" / "__init__.py").read_text() == ""


def test_every_error_can_be_caught_where_only_the_stand_in_is() -> None:
    module = type(sys)("stand_in")
    standin.Loader().exec_module(module)
    for name in deliveryboy_ng.__all__:
        real, found = (
            isinstance(kind, type) and issubclass(kind, BaseException)
            for kind in (getattr(deliveryboy_ng, name), getattr(module, name))
        )
        assert real == found, name


def greeting_of(python: str, command: list[str]) -> bytes:
    return subprocess.run([python, *command[1:]], input=b"", capture_output=True, check=True).stdout


def test_first_stage_greets_whether_it_comes_compiled_or_as_text() -> None:
    compiled, text = (workertext.command_line(executable, "00ff") for executable in (sys.executable, "python3"))
    assert "marshal.loads" in compiled[5] and "fromhex" not in text[5] and "\n" not in compiled[5] + text[5]
    for python in (sys.executable, *OTHERS.values()):
        greeting = greeting_of(python, compiled)
        assert greeting.startswith(b"=00ff<hello ") and greeting == greeting_of(python, text)
    right = importlib.util.MAGIC_NUMBER.hex()
    assert greeting_of(sys.executable, [word.replace(right, "00000000") for word in compiled]).startswith(b"=00ff<hello ")


@pytest.mark.parametrize("path", [p for p in WORKER if p.stem != "__init__"], ids=lambda path: path.stem)
def test_worker_files_open_with_their_contract(path: Path) -> None:
    assert "Contract:" in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_a_call_imports_nothing_expensive_on_the_far_side() -> None:
    def look() -> list[str]:
        import sys

        return sorted(sys.modules)

    names = set(deliveryboy_ng.deliver(look)())
    assert not names & {
        "os",
        "pickle",
        "base64",
        "functools",
        "typing",
        "re",
        "threading",
        "subprocess",
        "cloudpickle",
        "site",
        "json",
    }


def test_importing_the_library_imports_nothing_expensive() -> None:
    code = "import sys; import deliveryboy_ng; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}"],
                           capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert not {"cloudpickle", "psutil", "tblib", "asyncio", "subprocess", "dataclasses", "inspect"} & set(names)


def test_what_it_needs_in_another_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "cloudpickle").mkdir()
    for name in ("__init__", "cloudpickle"):
        (tmp_path / "cloudpickle" / f"{name}.py").touch()
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom deliveryboy_ng import DeliveryExecutor"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: deliveryboy_ng does not fit what is installed here" in done.stderr
    assert "'cloudpickle.cloudpickle' has no attribute" in done.stderr.splitlines()[-1]


def test_decorating_imports_nothing_that_only_a_call_needs() -> None:
    code = "import sys; from deliveryboy_ng import Limits, Sudo, deliver; deliver(transport=Sudo(), limits=Limits(cpu=1))(len)"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {code}; print(*sys.modules)"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"cloudpickle", "psutil", "tblib", "asyncio", "subprocess", "concurrent.futures"} & set(names)


def all_errors() -> list[type[exceptions.DeliveryError]]:
    return [kind for kind in vars(exceptions).values() if inspect.isclass(kind) and issubclass(kind, exceptions.DeliveryError)]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_and_is_public(kind: type[exceptions.DeliveryError]) -> None:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[2:]
    record = receipt.Receipt(function="f", verdict=receipt.Verdict.LOST)
    values = {
        p.name: record if p.name == "receipt" else KeyError("x") if p.name == "real_exception" else p.default for p in parameters
    }
    error = kind("what happened", **values)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and again.args == error.args and again.__notes__ == ["a note"]
    assert {k: repr(v) for k, v in vars(again).items()} == {k: repr(v) for k, v in vars(error).items()}
    assert kind.__name__ in deliveryboy_ng.__all__ and kind.__doc__
    assert kind.__name__ in str(exceptions.__doc__), "the tree in the module's docstring is whole"


class Unasked(exceptions.DeliveryError):
    def __init__(self) -> None:
        pass


def test_a_kind_of_error_of_ones_own_comes_back() -> None:
    def work() -> None:
        raise Unasked

    with pytest.raises(Unasked) as caught:
        deliveryboy_ng.deliver(work)()
    assert caught.value.receipt.verdict is deliveryboy_ng.Verdict.RAISED and caught.value.real_exception is None


def test_public_names_exist_are_sorted_and_documented() -> None:
    assert deliveryboy_ng.__all__ == sorted(deliveryboy_ng.__all__)
    assert set(deliveryboy_ng.__all__) == set(deliveryboy_ng._HOME_OF)
    for name in deliveryboy_ng.__all__:
        assert inspect.getdoc(getattr(deliveryboy_ng, name)), name
    with pytest.raises(AttributeError):
        deliveryboy_ng.no_such_name  # type: ignore[attr-defined]


def test_receipt_pickles_and_compares() -> None:
    made = deliveryboy_ng.deliver(lambda: 5).run()
    assert pickle.loads(pickle.dumps(made)) == made


def test_rooms_import_upwards_only() -> None:
    """A newcomer can read from core.py down: no room imports one that stands above it."""
    order = ["cli", "core", "delivery", "journey", "verdicts", "replies", "untrusted", "decoding", "arrays", "bounds", "tracebacks", "packing", "offender", "modules", "session", "wire", "interrupts", "workertext",
             "hops", "options", "output", "receipt", "transports", "confinement", "limits", "seccomp", "exceptions"]  # fmt: skip
    for path in PACKAGE.glob("*.py"):
        if path.stem not in order:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                for name in [node.module] if node.module else [alias.name for alias in node.names]:
                    if name in order and not _lazy(path, node):
                        assert order.index(name) > order.index(path.stem), f"{path.stem} imports {name}"


def _lazy(path: Path, node: ast.ImportFrom) -> bool:
    return node.col_offset > 0


def test_every_module_can_be_imported_alone() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ("__main__", "__init__"):
            importlib.import_module(f"deliveryboy_ng.{path.stem}")


TYPED = """
from deliveryboy_ng import Delivery, DeliveryBoyDecorator, Receipt, deliver

@deliver
def f(x: int, y: str = "a") -> float:
    return x

@deliver(timeout=3)
def g(x: int) -> str:
    return str(x)

class C:
    @deliver
    def m(self, x: int) -> float:
        return x

@deliver
async def k(x: int) -> str:
    return str(x)

async def fetch(x: int) -> str:
    return str(x)

l = DeliveryBoyDecorator(timeout=3)(fetch)

a: float = f(1)
b: Delivery[float] = f.submit(1, y="b")
c: Receipt = f.run(1)
d: str = g.with_options(timeout=4)(1)
e: float = C().m(1)
i: Delivery[float] = C().m.submit(1)

m: str = k(1) + l(1) + deliver(staticmethod(fetch))(1)
n: Delivery[str] = k.submit(1)

async def wait() -> float:
    o: str = await k.aio(1)
    await k(1)  # wrong
    return await f.submit(3)

f("x")  # wrong
g()  # wrong
j: int = g(1)  # wrong
f.map([1], timeout=1)  # wrong
C().m("x")  # wrong
"""


def test_a_type_checker_sees_the_functions_own_signature(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "typed.py"
    program.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", "--cache-dir", str(tmp_path), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    wrong = {number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")}
    assert {int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line} == wrong, result.stdout
