"""`python -m capbench compare`: runs beside one another."""

import argparse
from pathlib import Path

from capbench.errors import UserError
from capbench.report.comparison import compare
from capbench.report.read import find_runs, read_runs, usual_split
from capbench.report.table import WRITERS, lines, read_published, require_format, terminal, write
from capbench.runs import require_writable, write_text


def main(arguments: list[str]) -> int:
    """Read runs, print a table, and write it where it is asked for.

    Raises:
        UserError: there is no run to compare, or no such baseline, column or format.
    """
    options = _parser().parse_args(arguments)
    if not options.html and (options.images or not options.pictures or options.attention):
        raise UserError("--images, --no-images and --attention are about the page: add --html FILE.")
    if options.dry_run and not options.wandb:
        raise UserError("--dry-run prints what would be sent to W&B: add --wandb ENTITY/PROJECT.")
    for file in options.output:
        require_format(file)
    for file in [*options.output, *filter(None, [options.html])]:
        require_writable(file)
    of_literature = [] if options.published is None else options.published or [None]
    published = [row for file in of_literature for row in read_published(file)]
    paths = find_runs(options.runs)
    split = options.split or usual_split(paths)
    comparison = compare(*read_runs(paths, split), options.baseline)
    rows = lines(comparison, published, options.sort)
    print(terminal(rows, comparison))
    for file in options.output:
        write_text(file, write(rows, comparison, file.suffix))
        print(f"Table: {file}")
    if options.html:
        from capbench.report.gallery import Gallery
        from capbench.report.page import page

        gallery = Gallery(comparison, options.images, options.pictures)
        write_text(options.html, page(rows, comparison, gallery, options.sort, options.attention))
        print(f"Page: {options.html}")
        if gallery.without and options.pictures:
            print(f"It has no pictures: {gallery.without}")
    if options.wandb:
        from capbench.report.hosted import as_json, save, views

        both = views(comparison, write(rows, comparison, ".md"), options.wandb)
        print(as_json(*both) if options.dry_run else "\n".join(f"W&B: {address}" for address in save(*both)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m capbench compare",
        allow_abbrev=False,
        description="Compare runs: scores with 95 %% intervals, seeds pooled, differences to a baseline, and what each "
        "costs. Reads run folders alone.",
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, such as runs/*, or folders of these")
    add("--baseline", metavar="NAME", help="a system's name, or a run's folder, to compare with")
    add("--split", help="test or val; by default test, where some run has captions of it")
    add("--sort", default="cider_d", metavar="COLUMN", help="such as bleu4 or latency_ms (cider_d)")
    add("--output", type=Path, nargs="+", default=[], metavar="FILE", help=f"tables to write: {', '.join(WRITERS)}")
    add(
        "--published",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="add scores of the literature: those that capbench ships, or those of YAML files like its own",
    )
    add("--html", type=Path, metavar="FILE", help="write a page to look at: one file, which fetches nothing")
    add("--images", type=Path, metavar="FOLDER", help="where the page's pictures are, if not at the runs' --data.root")
    add("--no-images", dest="pictures", action="store_false", help="a page without the data set's pictures, to publish")
    add("--attention", type=int, default=0, metavar="N", help="show where decoders looked, at so many images (0)")
    add("--wandb", metavar="ENTITY/PROJECT", help="save a report and a view of the workspace at W&B")
    add("--dry-run", action="store_true", help="with --wandb: print what would be sent, and send nothing")
    return parser
