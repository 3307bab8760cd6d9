"""The page: a picture in, captions beside it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from capbench.data.scenes import draw, make_scene
from capbench.errors import UserError
from capbench.serve.service import LIMITS, PLACES, Service
from capbench.serve.uploads import MAX_BYTES, Refusal
from capbench.serve.viewer import answer, note, web

KEPT = 600
"""Seconds that a picture stays in the temporary folder, since the page may ask for it again."""
EXAMPLES, EXAMPLE_SIDE, EXAMPLE_SEED = 6, 256, 2024
FONTS = ("system-ui", "sans-serif")
HINT = "Drop, paste or photograph a picture, or take one of the examples: captions come by themselves."


def mount_page(app: FastAPI, service: Service, folder: Path) -> FastAPI:
    """Put the page at `/`.

    Args:
        app: what answers programs.
        service: the captioners.
        folder: for the examples, and for what is uploaded while it is shown.
    """
    uploads = folder / "uploads"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    page = make_page(service, uploads, draw_examples(folder / "examples"))
    page.has_launched = page.is_running = True  # until then gradio lets browsers name any file of this machine
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
        css=web("page.css"),
        max_file_size=MAX_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    raise gr.Error("Addresses are not fetched: send the picture itself.", print_exception=False)


def draw_examples(folder: Path) -> list[Path]:
    """Scenes that no captioner has learnt, as files."""
    folder.mkdir()
    gr.set_static_paths([folder])
    paths = [folder / f"scene-{place + 1}.png" for place in range(EXAMPLES)]
    for place, path in enumerate(paths):
        draw(make_scene(EXAMPLE_SEED, place), EXAMPLE_SIDE).save(path)
    return paths


def make_page(service: Service, uploads: Path, examples: list[Path]) -> gr.Blocks:
    """What people see."""
    own = next(iter(service.models.values())).search

    async def caption(
        photo: dict[str, Any] | None, count: int, beam: int, penalty: float, sample: bool, temperature: float
    ) -> str:
        if not photo:
            return note(HINT)
        changes: dict[str, Any] = {"beam": beam, "length_penalty": penalty, "sample": sample}
        changes |= {"temperature": temperature} if sample else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        try:
            searches = {name: service.options(name, count, changes) for name in service.models}
            with service.place():
                data = _content(Path(str(photo["path"])), (uploads, examples[0].parent))
                called = photo.get("orig_name") or "This"
                picture, found = await service.caption(data, searches, any(service.attends.values()), called)
        except UserError as error:
            return note(str(error), wrong=True)
        return answer(picture, found, service.attends)

    with gr.Blocks(title="capbench", analytics_enabled=False, delete_cache=(30, KEPT)) as page:
        gr.Markdown(f"# What does it see?\n{', '.join(service.models)} · capbench")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = gr.Image(label="Picture", type="filepath", height=300, buttons=[], elem_id="photo")
                gr.Examples([[str(path)] for path in examples], photo, label="Drawn scenes")
                with gr.Accordion("Search", open=False):
                    count = gr.Slider(1, 10, 3, step=1, label="Captions")
                    beam = gr.Slider(
                        1,
                        LIMITS["beam"][1],
                        min(own.beam, LIMITS["beam"][1]),
                        step=1,
                        label="Beam",
                        info="hypotheses kept",
                    )
                    penalty = gr.Slider(
                        0, 2, own.length_penalty, step=0.1, label="Length penalty", info="above 0, longer captions win"
                    )
                    sample = gr.Checkbox(own.sample, label="Draw words by their probability, instead of a beam")
                    temperature = gr.Slider(
                        0.1, 2, own.temperature, step=0.1, label="Temperature", info="below 1, probable words win"
                    )
                button = gr.Button("Caption", variant="primary")
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(note(HINT), js_on_load=web("viewer.js"), min_height=160, elem_id="captions")
        gr.on(
            [photo.change, button.click],
            caption,
            [photo, count, beam, penalty, sample, temperature],
            shown,
            preprocess=False,  # gradio would open the picture, without bounds
            api_visibility="private",
            trigger_mode="always_last",
        )
    return page.queue(max_size=PLACES, default_concurrency_limit=PLACES)


def _content(path: Path, folders: Sequence[Path]) -> bytes:
    """An upload's or an example's bytes: what browsers send as its path may be anything."""
    if not any(path.resolve().is_relative_to(folder) for folder in folders):
        raise Refusal(403, "This is no uploaded picture: drop one.")
    try:
        return path.read_bytes()
    except OSError as error:
        sentence = f"Pictures are kept for {KEPT // 60} minutes, and this one is gone: drop it again."
        raise Refusal(410, sentence) from error
