"""The original's detector by default: from an address to verdicts, and whatever a download may come to."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_detector
import torch
from PIL import Image

from common.errors import UserError
from evals import downloads, preflight
from evals.detectors import mask2former_pixels, mmdet_keys, original
from evals.geneval import run as geneval

METADATA = {
    "tag": "colors",
    "include": [{"class": "dog", "count": 1, "color": "red"}],
    "prompt": "a photo of a red dog",
}


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut`: breaks off after so many bytes of each answer; `ranges`: whether it knows them."""

    content, cut, ranges, status = b"", None, True, 200

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if server.status != 200 or start >= len(server.content):
            self.send_error(server.status if server.status != 200 else 416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A host that can be reached, and an empty cache."""
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    for module in (preflight, downloads, original):
        monkeypatch.setattr(module, "is_offline", lambda: False)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


def is_it(server: Server) -> downloads.IsRight:
    return lambda content: content == server.content


def test_a_download_that_breaks_off_goes_on(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.content, server.cut = bytes(range(256)) * 40, 3000
    url = server.url("file.bin")
    with pytest.raises(UserError, match=r"broke off after 9,000 of 10,240 bytes; the same command goes on"):
        downloads.download(url, is_it(server))
    assert not downloads.kept_at(url).exists()
    assert server.asked == ["bytes=0-", "bytes=3000-", "bytes=6000-"]
    path = downloads.download(url, is_it(server))
    assert server.asked[3:] == ["bytes=9000-"] and path.read_bytes() == server.content
    assert "file.bin" in capsys.readouterr().err  # the bar
    assert downloads.download(url, is_it(server)) == path and len(server.asked) == 4
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_host_that_knows_no_ranges_begins_again(server: Server) -> None:
    server.content, server.cut, server.ranges = b"abc" * 1000, 1000, False
    with pytest.raises(UserError, match="broke off after 1,000 of 3,000"):
        downloads.download(server.url("x"), is_it(server))
    server.cut = None
    assert downloads.download(server.url("x"), is_it(server)).read_bytes() == server.content


@pytest.mark.parametrize("status", [404, 503])
def test_a_download_that_is_refused_says_so(server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"/x: cannot be downloaded: HTTP {status} "):
        downloads.download(server.url("x"), is_it(server))


def test_another_file_is_not_kept(server: Server) -> None:
    server.content = b"<html>please log in</html>"
    url = server.url("net-00000000.pth")
    with pytest.raises(UserError, match="what came is another file: its hash differs"):
        downloads.download(url, original.named_by_hash(url))
    assert not any(downloads.kept_at(url).parent.iterdir())  # nor gone on with the next time
    need = downloads.need(url, original.named_by_hash(url), "the net", "--net")
    assert not need.found and "its hash differs" in need.how and url in need.how


def test_nothing_answers(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot be downloaded: .*refused"):
        downloads.download(server.url("x"), is_it(server))


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkpoint in mmdetection's layout, published as the original's is."""
    network = tiny_detector.network()
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"meta": {}, "state_dict": tiny_detector.as_mmdetection(network.state_dict(), 2)}, checkpoint)
    server.content = checkpoint.read_bytes()
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    monkeypatch.setattr(original, "URL", server.url(f"mask2former_swin-{digits}.pth"))
    convert = functools.partial(mmdet_keys.save_converted, config=network.config)
    monkeypatch.setattr(mmdet_keys, "save_converted", convert)
    monkeypatch.setattr(mask2former_pixels, "SHORT", 64)  # px; quicker
    return checkpoint


def judge(tmp_path: Path, name: str, *options: str) -> dict[str, Any]:
    """GenEval on one picture, with the small CLIP."""
    place = tmp_path / "pictures" / "00000"
    if not place.is_dir():
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps(METADATA))
        Image.effect_noise((40, 30), 90).convert("RGB").save(place / "samples" / "0000.png")
        tiny_detector.write_clip(tmp_path / "clip")
    fixed = [
        "--pictures",
        str(tmp_path / "pictures"),
        "-n",
        "1",
        "--device",
        "cpu",
        "--clip",
        str(tmp_path / "clip"),
    ]
    geneval.main([*fixed, "--output", str(tmp_path / name), *options])
    return dict(json.loads((tmp_path / name / "results.json").read_text())["settings"]["detector"])


def test_the_original_is_the_default(
    server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judge(tmp_path, "out")
    assert first["mmdet_sha256"] == hashlib.sha256(server.content).hexdigest()
    assert first["source"] == original.URL and first["prepared_as"] == "mmdetection"
    assert len(server.asked) == 1
    server.shutdown()
    again = judge(tmp_path, "out")  # from the cache, converted: nothing is asked
    assert again == first and len(server.asked) == 1
    # Offline, by its file, the same weights: what was detected is known.
    found = tmp_path / "out" / "detections" / "00000" / "0000.json"
    before = found.stat().st_mtime_ns
    named = judge(tmp_path, "out", "--detector", str(published))
    assert named == {**first, "source": str(published)} and found.stat().st_mtime_ns == before


def test_offline_one_line_says_what_to_do(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(original, "is_offline", lambda: True)
    with pytest.raises(UserError, match=r"GenEval: missing: the original's detector, of mmdetection$"):
        judge(tmp_path, "out")
    assert f"download {original.URL}\n      and give its path as --detector" in capsys.readouterr().out


def test_a_detector_is_opened_before_anything_is_drawn(
    server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent weights, a torn download, a CLIP that cannot name a colour: no picture has been drawn by then."""
    drawn: list[object] = []
    monkeypatch.setattr(geneval, "_draw", lambda *given: drawn.append(given))
    (tmp_path / "prompts.jsonl").write_text(json.dumps(METADATA) + "\n")
    tiny_detector.write_clip(tmp_path / "clip")
    (tmp_path / "model").mkdir()
    fixed = [str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.jsonl"), "--device", "cpu"]
    fixed += ["--clip", str(tmp_path / "clip"), "--output", str(tmp_path / "out")]
    server.cut = 1000
    with pytest.raises(UserError, match="broke off after 3,000 of"):
        geneval.main(fixed)
    server.cut = None
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["vision_config"]["patch_size"] = 7  # loads with other shapes, or cannot look
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="clip"):
        geneval.main(fixed)
    (tmp_path / "torn.pth").write_bytes(server.content[:5000])
    with pytest.raises(UserError, match=r"torn.pth: cannot be read as weights"):
        geneval.main([*fixed, "--detector", str(tmp_path / "torn.pth")])
    assert not drawn
