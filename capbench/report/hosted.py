"""The comparison at W&B: a report with our table, and a saved view of the project's workspace to go on from."""

import json
import warnings
from importlib import import_module
from typing import Any

from capbench.errors import UserError
from capbench.report.comparison import Comparison
from capbench.scores import NAMES

SHOWN = ("bleu1", "bleu2", "bleu3", "bleu4", "cider_d")
ENCODER, DECODER = "config.model.encoder.init_args.name", "config.model.decoder.class_path"
GROUPED = [ENCODER, DECODER]


def views(comparison: Comparison, table: str, target: str) -> tuple[Any, Any]:
    """The report and the workspace view (wandb-workspaces' Report and Workspace), not saved.

    Args:
        comparison: what the table compares.
        table: the table as Markdown.
        target: ENTITY/PROJECT.

    Raises:
        UserError: wandb-workspaces is not installed, or the target is not ENTITY/PROJECT.
    """
    entity, slash, project = target.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError(f"--wandb takes ENTITY/PROJECT, not {target!r}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of its own deprecations
            wr: Any = import_module("wandb_workspaces.reports.v2")  # its types are narrower than what it takes
            ws: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise UserError("--wandb takes wandb-workspaces: pip install 'capbench[report]'.") from error

    scores = {name: f"{comparison.split}/{name}.last" for name in SHOWN}
    best = wr.OrderBy(wr.SummaryMetric(scores["cider_d"]), ascending=False)

    def runset(name: str, **options: Any) -> Any:
        return wr.Runset(name=name, order=[best], **options)  # of the report's own project

    def panels() -> list[Any]:
        bars = [
            wr.BarPlot(
                title=f"{NAMES[name]}, {comparison.split}",
                metrics=[wr.SummaryMetric(metric)],
                groupby=DECODER,
                groupby_rangefunc="stderr",
                layout=wr.Layout(x=8 * (place % 3), y=6 * (place // 3), w=8, h=6),
            )
            for place, (name, metric) in enumerate(scores.items())
        ]
        settings = {
            "model.lr": "learning rate",
            "model.decoder.class_path": "decoder",
            "data.init_args.batch_size": "batch",
        }
        coordinates = [
            wr.ParallelCoordinatesPlotColumn(wr.Config(name), display_name=title) for name, title in settings.items()
        ]
        target_column = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(scores["cider_d"]), display_name="CIDEr-D")
        return [
            *bars,
            wr.ParameterImportancePlot(with_respect_to=scores["cider_d"], layout=wr.Layout(x=16, y=6, w=8, h=6)),
            wr.ParallelCoordinatesPlot(columns=[*coordinates, target_column], layout=wr.Layout(x=0, y=12, w=24, h=8)),
            wr.MediaBrowser(
                title="Samples", media_keys=[f"{comparison.split}/samples"], layout=wr.Layout(x=0, y=20, w=24, h=10)
            ),
            wr.RunComparer(diff_only="split", layout=wr.Layout(x=0, y=30, w=24, h=10)),
        ]

    pairs = {(system.runs[0].encoder, system.runs[0].decoder): system.runs for system in comparison.systems}
    each = [
        runset(
            f"{encoder} + {decoder}",
            filters=f"Config('model.encoder.init_args.name') == {_literal(_name(runs[0]))} "
            f"and Config('model.decoder.class_path') == {_literal(runs[0].result['decoder']['class_path'])}",
        )
        for (encoder, decoder), runs in pairs.items()
    ]
    report = wr.Report(
        project=project,
        entity=entity,
        title=f"capbench: {len(comparison.systems)} systems, {comparison.split} split",
        description="Captions scored by capbench; intervals and tests are its own, the panels are W&B's.",
        width="fluid",
        blocks=[
            wr.H1("Systems"),
            wr.MarkdownBlock(table),
            wr.H1("Encoders and decoders"),
            wr.PanelGrid(runsets=[runset("encoder x decoder", groupby=GROUPED), *each], panels=panels()),
        ],
    )
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name="capbench",
        sections=[ws.Section(name="Scores", panels=panels(), is_open=True)],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(name.removeprefix("config.")) for name in GROUPED]),
    )
    return report, workspace


def _name(run: Any) -> str:
    return str(run.result["encoder"]["init_args"].get("name"))


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def as_json(report: Any, workspace: Any) -> str:
    """What would be sent to W&B."""
    content = {
        "report": json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)),
        "workspace": json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)),
    }
    return json.dumps(content, indent=2)


def save(report: Any, workspace: Any) -> list[str]:
    """Save both at W&B; their addresses.

    Raises:
        UserError: W&B does not take them.
    """
    try:
        return [str(report.save().url), str(workspace.save().url)]
    except Exception as error:  # of wandb's many kinds, some of them bare
        raise UserError(
            f"W&B does not take the report ({str(error).splitlines()[0]}): look at `wandb login` and the project's "
            "name, or see it with --dry-run."
        ) from error
