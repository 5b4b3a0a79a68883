"""The slide explorer: a page that needs nothing but itself, a server of tiles, and a browser where there is one."""

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from helpers import figures
from helpers.core.errors import ResolutionError, SlideError, TileError
from helpers.figures import explorer as module
from helpers.figures.explorer import explore, is_live, read_asset, read_library
from helpers.figures.overlay import unpack
from helpers.figures.tileserver import TileServer
from helpers.slides.pyramid import Pyramid, read_pyramid_tile
from helpers.slides.reader import open_slide
from helpers.slides.writer import write_pyramid

ASSETS = Path(module.__file__).parent / "assets"
LABEL = (0, 255, 0)
needs_anywidget = pytest.mark.skipif(
    importlib.util.find_spec("anywidget") is None, reason="needs anywidget, which is not installed"
)


def draw_image() -> np.ndarray:
    y, x = np.mgrid[0:1100, 0:1300]
    image = np.stack([200 + 40 * np.sin(x / 50), 120 + 60 * np.sin(y / 40), 160 + 60 * np.sin((x + y) / 60)], axis=-1)
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A slide of 1300 x 1100 px with a bright green label behind it."""
    path = tmp_path_factory.mktemp("slides") / "S-1.svs"
    write_pyramid(path, draw_image(), mpp=0.5, downsamples=(4,))
    label = np.full((60, 80, 3), LABEL, np.uint8)
    with tifffile.TiffWriter(path, append=True) as file:
        file.write(
            label, photometric="rgb", subfiletype=1, description="Aperio Image Library\nlabel 80x60", metadata=None
        )
    return path


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame({
        "x_l0": [0, 256, 512, 768], "y_l0": [0, 0, 256, 512], "edge_l0": 256, "attention": [0.1, 0.2, np.nan, 0.4],
        "flag": ["fine", "ink </script>", "fine", None],
    })  # fmt: skip


def read_part(text, name):
    return re.search(rf'<script class="hx-{name}"[^>]*>(.*?)</script>', text, re.DOTALL).group(1)


# ---- what is said


def test_the_function_is_at_hand_without_loading_the_viewer():
    assert figures.explore is explore
    with pytest.raises(AttributeError, match="no attribute 'exlpore'"):
        getattr(figures, "exlpore")  # noqa: B009


def test_the_payload_states_the_slide_and_the_tiles(path, frame):
    shown = explore(path, tiles=frame, column="flag", outlines=[np.array([[0, 0], [9, 0], [9, 5]])], opacity=0.3)
    payload = shown.describe()
    slide = payload["slide"]
    assert (slide["slide_id"], slide["width"], slide["height"]) == ("S-1", 1300, 1100)
    assert (slide["mpp_x"], slide["tile_px"], slide["n_levels"], slide["finest"]) == (0.5, 512, 3, 0)
    assert [column["name"] for column in payload["tiles"]["columns"]] == ["attention", "flag"]
    assert (payload["column"], payload["opacity"], payload["tiles"]["edge"]) == (1, 0.3, [256, 256])
    assert unpack(payload["tiles"]["x"], "<i4").tolist() == [0, 256, 512, 768]
    assert unpack(payload["outlines"][0], "<f4").tolist() == [0, 0, 9, 0, 9, 5]
    assert repr(shown) == "Explorer of slide 'S-1', 1300 × 1100 px at 0.5 µm/px (openslide.mpp-x), 4 tiles"


def test_an_id_follows_from_content_alone(path, frame, tmp_path):
    copy = tmp_path / "elsewhere" / "S-1.svs"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    first = explore(path, tiles=frame).describe()["slide"]["id"]
    assert explore(copy, tiles=frame).describe()["slide"]["id"] == first
    assert explore(path, tiles=frame.assign(attention=0.5)).describe()["slide"]["id"] != first


def test_an_open_slide_may_be_closed_afterwards_and_keeps_its_resolution(path):
    with open_slide(path, slide_id="other name", mpp=0.4) as slide:
        shown = explore(slide)
    assert shown.describe()["slide"]["mpp_x"] == 0.4
    assert shown.slide.slide_id == "other name"
    assert shown.server.read_tile(0, 0, 0)[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"column": "attn"}, "no column 'attn' to colour the tiles of slide 'S-1' by; there: attention, flag"),
        ({"column": "a", "tiles": None}, "there: none, for no tiles were given"),
        ({"limits": {"atention": (0, 1)}}, r"limits or colours of \['atention'\]"),
    ],
)
def test_what_is_not_there_is_named(path, frame, options, text):
    with pytest.raises(TileError, match=text):
        explore(path, **{"tiles": frame, **options})


def test_a_slide_without_a_resolution_asks_for_one(tmp_path):
    path = tmp_path / "S-2.svs"
    write_pyramid(path, draw_image()[:600, :600], mpp=None, downsamples=(4,))
    with pytest.raises(ResolutionError, match="Set fallback_mpp"):
        explore(path)
    slide = explore(path, fallback_mpp=0.25).describe()["slide"]
    assert (slide["mpp_x"], slide["about"]) == (0.25, "600 × 600 px at 0.25 µm/px (fallback_mpp)")


def test_a_missing_slide_is_named(tmp_path):
    with pytest.raises(SlideError, match="no file at"):
        explore(tmp_path / "S-0.svs")


# ---- the page


def test_a_page_holds_all_it_needs(path, frame):
    text = explore(path, tiles=frame).to_html()
    library = zlib.decompress(base64.b64decode(read_part(text, "library"))).decode()
    assert library == read_library()
    own = text.replace(read_part(text, "library"), "")
    assert not re.search(r"https?://|//cdn|\bimport\s*\(|\bfetch\(|XMLHttpRequest|<link|url\(", own)
    assert set(re.findall(r'\b(?:src|href)="(.{15})', own)) == {"data:image/jpeg"}


def test_a_page_is_the_same_bytes_each_time(path, frame, tmp_path):
    first = explore(path, tiles=frame).write_html(tmp_path / "a.html").read_bytes()
    assert explore(path, tiles=frame).write_html(tmp_path / "b.html").read_bytes() == first
    assert explore(path, tiles=frame).to_png() == explore(path, tiles=frame).to_png()


def test_a_page_s_pixels_are_the_slide_s(path):
    shown = explore(path)
    pixels = json.loads(read_part(shown.to_html(), "pixels"))
    assert set(pixels) == {f"{k}/{x}_{y}" for k in range(3) for x, y in shown.pyramid.list_tiles(k)}
    tile = np.asarray(Image.open(BytesIO(base64.b64decode(pixels["0/2_1"]))), float)
    assert tile.shape == (512, 1300 - 1024, 3)
    assert np.abs(tile - draw_image()[512:1024, 1024:]).mean() < 6


def test_a_page_shrinks_to_what_it_may_hold_and_says_how_fine_it_is(path, frame):
    small = explore(path, tiles=frame, max_mb=0.02)
    text = small.to_html()
    payload, pixels = json.loads(read_part(text, "payload")), json.loads(read_part(text, "pixels"))
    assert sum(len(base64.b64decode(data)) for data in pixels.values()) <= 20_000
    finest = payload["slide"]["finest"]
    assert finest == min(int(key[0]) for key in pixels) > 0
    assert payload["note"] == f"This page holds the slide down to {0.5 * 2**finest:g} µm/px."
    assert payload["slide"]["width"] == 1300  # coordinates stay those of level 0


def test_text_of_the_tables_cannot_end_a_script(path, frame):
    payload = read_part(explore(path, tiles=frame).to_html(), "payload")
    assert "<" not in payload
    assert "ink </script>" in json.loads(payload)["tiles"]["columns"][1]["categories"]


def test_jupyter_gets_a_page_a_picture_and_a_line(path, frame):
    bundle = explore(path, tiles=frame, live=False)._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"}
    picture = Image.open(BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.format == "PNG"
    assert picture.width > 600


@pytest.mark.parametrize("column", ["attention", "flag", "constant", "empty"])
def test_the_picture_shows_every_kind_of_column(path, frame, column):
    tiles = frame.assign(constant=1.0, empty=np.nan)
    colours = {"flag": {"fine": "#ff0000", "ink </script>": "#0000ff"}}
    shown = explore(path, tiles=tiles, column=column, colours=colours, opacity=1.0)
    picture = np.asarray(Image.open(BytesIO(shown.to_png())).convert("RGB"), int)
    is_red = (picture[..., 0] > 200) & (picture[..., 1:].max(axis=-1) < 60)
    assert (is_red.sum() > 2000) == (column == "flag")


def test_no_label_is_ever_shown(path, frame):
    import openslide

    with openslide.OpenSlide(path) as slide:
        assert tuple(np.asarray(slide.associated_images["label"])[0, 0, :3]) == LABEL
    shown = explore(path, tiles=frame)
    texts = json.loads(read_part(shown.to_html(), "pixels")).values()
    pictures = [Image.open(BytesIO(base64.b64decode(text))) for text in texts]
    for picture in [*pictures, Image.open(BytesIO(shown.to_png())), Image.open(BytesIO(shown._pictures[1]))]:
        pixels = np.asarray(picture.convert("RGB"), int)
        assert not ((pixels[..., 1] > 230) & (pixels[..., [0, 2]].max(axis=-1) < 40)).any()


# ---- live


@pytest.fixture
def server(path):
    slide = open_slide(path, slide_id="S-1")
    server = TileServer(slide, Pyramid(width=slide.width, height=slide.height))
    yield server
    server.close()


def ask(**parts):
    return {"kind": "tile", "request": "7", "level": 0, "column": 0, "row": 0, **parts}


def test_a_request_is_answered_with_the_reader_s_pixels(server):
    content, (data,) = server.answer(ask(level=1, column=1, row=1))
    assert content == {"kind": "tile", "request": "7"}
    tile = np.asarray(Image.open(BytesIO(data)), float)
    expected = read_pyramid_tile(server.slide, server.pyramid, level=1, column=1, row=1)
    assert tile.shape == expected.shape == (38, 138, 3)
    assert np.abs(tile - expected).mean() < 3


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (ask(level=3), "level 3 of a pyramid of 3 levels"),
        (ask(column=3), "tile (column 3, row 0) of level 0, which has 3 x 3 tiles"),
        (ask(row=-1), "row -1"),
        (ask(level="label"), "expected kind 'tile' and three whole numbers"),
        (ask(level=True), "three whole numbers"),
        (ask(kind="macro"), "a request of kind 'macro'"),
        ({}, "a request of kind None for level, column, row (None, None, None)"),
    ],
)
def test_a_bad_request_is_answered_with_the_reason(server, message, text):
    content, buffers = server.answer(message)
    assert content["kind"] == "error"
    assert text in content["text"]
    assert buffers == []


def test_a_tile_that_cannot_be_decoded_is_answered_with_the_reason(server, monkeypatch):
    def fail(*_, **__):
        raise SlideError("SlideError: slide 'S-1': the region cannot be decoded.")

    monkeypatch.setattr("helpers.figures.tileserver.read_pyramid_tile", fail)
    assert server.answer(ask())[0]["text"] == "SlideError: slide 'S-1': the region cannot be decoded."


def test_tiles_are_kept_up_to_a_number_of_bytes(path, monkeypatch):
    slide = open_slide(path, slide_id="S-1")
    read = []

    def count(*arguments, **place):
        read.append(place)
        return read_pyramid_tile(*arguments, **place)

    monkeypatch.setattr("helpers.figures.tileserver.read_pyramid_tile", count)
    server = TileServer(slide, Pyramid(width=slide.width, height=slide.height), cache_bytes=1)
    assert server.read_tile(0, 0, 0) == server.read_tile(0, 0, 0)
    assert len(read) == 1
    server.read_tile(0, 1, 0)
    server.read_tile(0, 0, 0)
    assert len(read) == 3  # the first was forgotten
    server.close()


def test_answers_come_from_threads_and_a_cancelled_request_is_dropped(server, monkeypatch):
    started, go, answered, done = threading.Barrier(3), threading.Event(), [], threading.Event()

    def wait(self, level, column, row):
        if row == 0:
            started.wait(20)
            go.wait(20)
        return b"tile"

    def hear(content, buffers):
        answered.append(content["request"])
        if content["request"] == "last":
            done.set()

    monkeypatch.setattr(TileServer, "read_tile", wait)
    for request in ("a", "b"):
        server.submit(ask(request=request), hear)
    started.wait(20)  # both threads are busy
    server.submit(ask(request="c", row=1), hear)
    server.submit({"kind": "cancel", "request": "c"}, hear)
    server.submit({"kind": "cancel", "request": "never asked"}, hear)
    server.submit(ask(request="last", row=1), hear)
    go.set()
    assert done.wait(20)
    server.close()
    assert sorted(answered) == ["a", "b", "last"]


def test_a_closed_explorer_says_so(server):
    server.close()
    heard = []
    server.submit(ask(), lambda content, buffers: heard.append((content["text"], buffers)))
    server.submit("nonsense", lambda content, buffers: heard.append((content["text"], buffers)))
    assert heard == [("TileError: the explorer of slide 'S-1' is closed. Run its cell again.", [])] * 2


def test_only_a_kernel_that_a_person_s_server_started_is_live(monkeypatch):
    for name in module.SESSION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not is_live()
    monkeypatch.setenv("JPY_SESSION_NAME", "")  # as the runner sets it
    assert not is_live()
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01_tile_slides.py")
    assert is_live()


@needs_anywidget
def test_the_widget_asks_the_server_and_stands_first(path, frame, monkeypatch):
    shown = explore(path, tiles=frame, live=True)
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/plain", "text/html", "image/png"}
    sent, done = [], threading.Event()
    monkeypatch.setattr(shown.widget, "send", lambda *answer: (sent.append(answer), done.set()))
    shown.widget._handle_custom_msg(ask(level=2), [])
    assert done.wait(20)
    assert sent == [({"kind": "tile", "request": "7"}, [shown.server.read_tile(2, 0, 0)])]
    assert shown.widget.payload == shown.describe()
    assert "export default" in shown.widget._esm
    shown.close()
    assert not shown.server.close.alive


# ---- the browser's code


def test_the_vendored_library_is_the_one_that_is_named():
    text = (ASSETS / "README.md").read_text()
    named = re.search(r"OpenSeadragon ([\d.]+), unchanged \(SHA-256 `(\w+)`\)", text)
    code = (ASSETS / "openseadragon.min.js").read_bytes()
    assert hashlib.sha256(code).hexdigest() == named.group(2)
    assert code.startswith(f"//! openseadragon {named.group(1)}".encode())
    assert "Redistributions in binary form" in (ASSETS / "openseadragon.LICENSE.txt").read_text()


def test_our_own_code_cannot_end_its_script_element():
    for name in ("explorer.js", "explorer_static.js", "explorer_widget.js"):
        assert "</" not in read_asset(name), name


def find_browser():
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


PROBE = """<script>setTimeout(() => {
  const canvas = document.querySelector(".hx-overlay"), pen = canvas && canvas.getContext("2d");
  const bytes = pen ? pen.getImageData(0, 0, canvas.width, canvas.height).data : [];
  const said = document.createElement("pre"), slide = document.querySelector(".openseadragon-canvas canvas");
  said.id = "said";
  said.textContent = JSON.stringify({
    drawn: bytes.length ? bytes.filter((value, i) => i % 4 === 3 && value).length / (bytes.length / 4) : 0,
    slide: slide ? slide.width : 0, legend: document.querySelector(".hx-legend")?.innerText, scale: document.querySelector(".hx-scale")?.textContent,
    options: document.querySelectorAll(".hx-bar option").length, loaded: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 5)),
  });
  document.body.append(said);
}, 2500);</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs chromium or google-chrome on the PATH")
def test_a_browser_draws_the_page_without_a_network(path, frame, tmp_path):
    page = explore(path, tiles=frame, column="flag").write_html(tmp_path / "page.html")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    said = json.loads(
        re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL).group(1).replace("&lt;", "<").replace("&gt;", ">")
    )
    assert said["slide"] > 0
    assert 0.03 < said["drawn"] < 0.5
    assert said["legend"].split("\n")[0] == "flag"
    assert "no value" in said["legend"]
    assert re.fullmatch(r"\d+ (µm|mm)", said["scale"])
    assert said["options"] == 2
    assert set(said["loaded"]) <= {"blob:", "data:"}
