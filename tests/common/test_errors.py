"""What libraries and the system raise becomes one line for the user."""

from __future__ import annotations

import sys
from io import BytesIO, TextIOWrapper

import pytest

from common.errors import EXIT_OTHER_FAILED, LONGEST, UserError, one_line, out_of_memory, refusing, run_cli


def refused(error: Exception, *kinds: type[Exception]) -> str:
    with pytest.raises(UserError) as caught, refusing("a.json: expected a record", *kinds):
        raise error
    return str(caught.value)


def test_an_error_on_one_line() -> None:
    assert one_line(ValueError("no  number:\n  'x'")) == "no number: 'x'"
    assert one_line(KeyError()) == "KeyError"
    absent = FileNotFoundError(2, "No such file or directory", "a/b")
    assert one_line(absent) == "No such file or directory: a/b"
    assert one_line(absent, "a/b: cannot be read") == "No such file or directory"
    assert one_line(OSError("damaged")) == "damaged"


def test_what_is_refused_says_where() -> None:
    assert refused(ValueError("no\nnumber"), OSError, ValueError) == "a.json: expected a record: no number"
    assert refused(PermissionError(13, "Permission denied", "a.json"), OSError).endswith(
        "record: Permission denied"
    )
    assert refused(PermissionError(13, "Permission denied", "b"), OSError).endswith(": Permission denied: b")
    assert refused(KeyError("model_type")) == "a.json: expected a record: 'model_type'"
    said = refused(ValueError("long " * 1000), ValueError)
    assert len(said) == len("a.json: expected a record: ") + LONGEST


def test_only_what_is_named_is_refused() -> None:
    with pytest.raises(KeyError), refusing("a.json", ValueError):
        raise KeyError("a bug of ours")


def test_an_error_of_ours_is_not_told_twice() -> None:
    ours = UserError("b.json: " + "long " * 200)
    with pytest.raises(UserError) as caught, refusing("a.json"):
        raise ours
    assert caught.value is ours
    assert refused(ours, UserError) == f"a.json: expected a record: {ours}"


def test_a_line_that_a_stream_cannot_write_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, "ascii"))
    run_cli(lambda: print("caf\udce9 é 红"))
    sys.stdout.flush()
    assert written.getvalue() == b"caf\\udce9 \\xe9 \\u7ea2\n"


MEMORY = [
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: str(error)[:20])
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise error
        except Exception as first:
            raise RuntimeError("could not import module 'X'") from first

    assert (
        out_of_memory(error) and not out_of_memory(RuntimeError("a bug of ours")) and not out_of_memory(None)
    )
    assert refused(error).startswith("a.json: expected a record: not enough memory; ")
    with pytest.raises(SystemExit, match="2"):
        run_cli(fail)
    told = capsys.readouterr().err
    assert told.startswith("error: not enough memory; ") and told.count("\n") == 1
    with pytest.raises(KeyError):
        run_cli(lambda: {}["a bug of ours"])


def test_a_process_that_lost_another_one_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("common.errors.lost_peer", lambda error: "reset by peer" in str(error))

    def main() -> None:
        raise RuntimeError("[gloo/pair.cc:537] Connection reset by peer.\nCheck the logs.")

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == EXIT_OTHER_FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: another process of this run is gone") and said.count("\n") == 1


def test_a_name_from_elsewhere_cannot_end_the_line() -> None:
    """A member of a tar may be called anything."""
    error = UserError("shard.tar: a\nb\x1e\u2028\x1b[2Jc \u00e9: is in it twice")
    assert str(error) == "shard.tar: a\\nb\\x1e\\u2028\\x1b[2Jc \u00e9: is in it twice"
    assert len(str(error).splitlines()) == 1
