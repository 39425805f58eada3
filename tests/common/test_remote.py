"""Files behind URLs: the same bytes as from disk, whatever the network does; kept once a node, within a bound."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_sets import make_shards

from benchmarks.loopback import KINDS, s3_server, upload, weather, web_server
from common.data.blobs import forget_open_files, listed, open_blob, read_at, stat
from common.data.config import DataConfig, SourceConfig
from common.data.remote import cache, ranges, retries, transport
from common.data.stream import training_loader
from common.errors import FailedRead, UserError

CONTENT = bytes(range(256)) * 40  # 10 kB
BLOCK = 1000
PROMPT = [kind for kind in KINDS if kind != "slow"]  # those that need no clock


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to serve; small blocks, short waits, a cache of this test's own."""
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranges, "BLOCK", BLOCK)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retries, "ATTEMPTS", 12)
    monkeypatch.setattr(retries, "retries", retries.Retries())
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.tar").write_bytes(CONTENT)
    yield tmp_path / "www"
    forget_open_files()


def test_bytes_by_offset_and_as_an_open_file(place: Path) -> None:
    (place / "empty.tar").write_bytes(b"")
    with web_server(place) as site:
        url = f"{site.url}/a.tar"
        for offset, size in ((0, 1), (0, len(CONTENT)), (999, 2), (2500, 4321), (len(CONTENT) - 1, 1)):
            assert read_at(url, offset, size) == CONTENT[offset : offset + size]
        assert max(site.asked.values()) == 1 and site.sent < len(CONTENT) + BLOCK  # each block came once
        for cached in (True, False):
            with open_blob(url, cached) as file:
                file.seek(-300, os.SEEK_END)
                assert file.read() == CONTENT[-300:]
                file.seek(7)
                assert file.read(2000) == CONTENT[7:2007]
        assert stat(f"{site.url}/empty.tar").size == 0
        with open_blob(f"{site.url}/empty.tar") as file:
            assert file.read() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_any_weather_gives_the_same_bytes_and_is_counted(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transport, "TIMEOUT", 0.5 if kind == "slow" else 30.0)
    with web_server(place) as site, weather(site.url, share=0.4, seed=3, kinds=[kind]) as bad:
        with caplog.at_level(logging.WARNING):
            assert read_at(f"{bad.url}/a.tar", 0, len(CONTENT)) == CONTENT
        # A good answer may come too late as well, where that is the test.
        assert retries.retries.number >= sum(bad.faults.values()) > 2
        assert kind == "slow" or retries.retries.number == sum(bad.faults.values())
    assert "asked again" in caplog.text and "retries so far: 1" in caplog.text


def test_what_stays_bad_is_a_failed_read_that_names_the_url(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 3)
    with web_server(place) as site, weather(site.url, share=1.0, kinds=["503"]) as bad:
        with pytest.raises(FailedRead, match=r"/a\.tar: download failed 3 times, the last: 503"):
            read_at(f"{bad.url}/a.tar?signature=secret", 0, 10)
        assert bad.faults["503"] == 3
    with pytest.raises(FailedRead, match=r"http://127\.0\.0\.1:9/a\.tar: download failed 3 times"):
        stat("http://user:secret@127.0.0.1:9/a.tar")


def test_absent_is_said_at_once(place: Path) -> None:
    with web_server(place) as site:
        with pytest.raises(UserError, match=r"/none\.tar: no such file \(404\)") as caught:
            stat(f"{site.url}/none.tar")
        assert not isinstance(caught.value, FailedRead) and retries.retries.number == 0
    with pytest.raises(UserError, match="zz://: no protocol that is known"):
        stat("zz://bucket/a.tar")
    with pytest.raises(UserError, match="gs://: a package is missing: pip install gcsfs"):
        stat("gs://bucket/a.tar")


def test_a_server_without_ranges_is_refused(place: Path) -> None:
    with web_server(place, ranges=False) as site:
        assert stat(f"{site.url}/a.tar").size == len(CONTENT)
        with pytest.raises(UserError, match="the server gives whole files only, no ranges of bytes"):
            read_at(f"{site.url}/a.tar", 10, 10)


def test_another_version_in_the_middle_is_an_error_not_mixed_bytes(place: Path) -> None:
    with web_server(place) as site:
        url = f"{site.url}/a.tar"
        assert read_at(url, 0, 10) == CONTENT[:10]
        site.etags["/a.tar"] = '"another"'
        assert read_at(url, 10, 10) == CONTENT[10:20]  # of a block that is here
        with pytest.raises(UserError, match="changed while it was in use"):
            read_at(url, 5000, 10)
        forget_open_files()  # a new start
        assert read_at(url, 5000, 10) == CONTENT[5000:5010]


def test_folders_globs_and_braces_of_urls(place: Path) -> None:
    (place / "more").mkdir()
    for name in ("b.tar", "more/c.tar", "more/c.txt"):
        (place / name).write_bytes(CONTENT)
    with web_server(place) as site:
        names = lambda found: [url.removeprefix(f"{site.url}/") for url in found]  # noqa: E731
        assert names(listed(f"{site.url}/{{a,b}}.tar")) == ["a.tar", "b.tar"]
        assert names(listed(f"{site.url}/*.tar")) == ["a.tar", "b.tar"]
        assert names(listed(f"{site.url}/", (".tar",))) == ["a.tar", "b.tar", "more/c.tar"]
        with pytest.raises(UserError, match=r"/x\*\.tar: no shards found"):
            listed(f"{site.url}/x*.tar", (), "shards")


def test_the_cache_stays_within_its_bound_and_throws_out_what_is_oldest(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT_NAME, "4KB")
    folder = Path(os.environ["VQRAE_CACHE"], "downloads")
    with web_server(place) as site:
        for offset in range(0, 10_000, BLOCK):
            read_at(f"{site.url}/a.tar", offset, 10)
            assert sum(path.stat().st_size for path in folder.glob("*.bin")) <= 4096
        assert len(list(folder.glob("*.bin"))) >= 3
        monkeypatch.setenv(cache.LIMIT_NAME, "lots")
        forget_open_files()
        with pytest.raises(UserError, match="VQRAE_CACHE_LIMIT: expected bytes"):
            read_at(f"{site.url}/a.tar", 0, 10)


def test_the_processes_of_a_node_download_once_though_some_are_killed(place: Path) -> None:
    """Forked after the parent has read, so its connections must not be theirs."""
    with web_server(place, latency=0.02) as site:
        url = f"{site.url}/a.tar"
        stat(url)
        read_at(url, 0, 10)
        readers = [_forked(lambda: read_at(url, 0, len(CONTENT)) == CONTENT) for _ in range(4)]
        time.sleep(0.05)
        os.kill(readers[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) for reader in readers]
        assert codes == [-signal.SIGKILL, 0, 0, 0]
        again = {name: times for name, times in site.asked.items() if times > 1}
        assert len(again) <= 1  # the block that the killed one was at


def _forked(job) -> int:  # type: ignore[no-untyped-def]
    process = os.fork()
    if process == 0:
        done = False
        try:
            done = job()
        finally:
            os._exit(0 if done else 1)
    return process


def test_s3_reads_the_same_in_bad_weather(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "nothing")):
        monkeypatch.setenv(name, value)
    with s3_server(["bucket"]) as store, weather(store, share=0.3, seed=2, kinds=PROMPT) as bad:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bad.url)
        upload(store, "bucket", {"set/a.tar": place / "a.tar"})
        assert (
            listed("s3://bucket/set", (".tar",))
            == listed("s3://bucket/set/*.tar")
            == ["s3://bucket/set/a.tar"]
        )
        assert read_at("s3://bucket/set/a.tar", 0, len(CONTENT)) == CONTENT
        assert bad.faults and retries.retries.number > 0
        with pytest.raises(UserError, match=r"s3://bucket/none\.tar: no such file \(404\)"):
            stat("s3://bucket/none.tar")


@pytest.mark.slow
def test_training_batches_are_those_of_the_disk(place: Path) -> None:
    """Bit for bit, through workers, in all weathers at once."""
    local = make_shards(place / "set", [7, 5, 9], window=2)
    with web_server(place) as site, weather(site.url, share=0.2, seed=3, kinds=PROMPT) as bad:
        remote = SourceConfig(kind="shards", path=local.path.replace(str(place), bad.url), window=2)
        batches = []
        for source in (local, remote):
            data = DataConfig(image_size=6, sources=(source,), workers=2, lanes=4)
            stream = iter(training_loader(data, seed=5, micro_batch=4))
            batches.append([next(stream) for _ in range(12)])
            del stream
        assert len(bad.faults) >= 4
        assert retries.retries.number == sum(bad.faults.values())  # those of the workers too
    for one, other in zip(*batches, strict=True):
        assert one["pixels"].equal(other["pixels"])
        assert (one["caption"], one["key"], one["skipped"]) == (
            other["caption"],
            other["key"],
            other["skipped"],
        )
