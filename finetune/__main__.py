"""``python -m finetune VERB ...``."""

from collections.abc import Sequence

from engine.cli import run
from engine.commands import Package, Verb, run_package

PACKAGE = Package(
    "finetune",
    "Fine-tune an encoder to recover meshes of bodies and hands; evaluate it, and use it.",
    (
        Verb(
            "train",
            "finetune.train:train",
            "fine-tune; the same command resumes a run that was stopped",
            "CONFIG run=DIR init=RUN-or-FILE data.shards=DIR [key=value ...]",
            "body_vits run=runs/mesh init=runs/body data.shards=shards/body",
            keys="finetune.config:FinetuneConfig",
            usual=("run", "init", "data.shards", "batch", "steps", "optim.lr", "device"),
            takes_config=True,
            trains=True,
        ),
        Verb(
            "evaluate",
            "finetune.evaluation.evaluate:main",
            "measure the errors of a run on people that it has not seen",
            "RUN [data.shards=DIR] [without=RUN] [key=value ...]",
            "runs/mesh data.shards=shards/test",
            keys="finetune.verb_config:EvaluateConfig",
            usual=("run", "data.shards", "without", "out", "clips", "device"),
        ),
        Verb(
            "score",
            "finetune.evaluation.score:main",
            "compute the numbers of a paper's protocol from a file of predictions",
            "PREDICTIONS truth=FILE-or-DIR protocol=NAME [key=value ...]",
            "pred.json truth=freihand protocol=freihand",
            keys="finetune.verb_config:ScoreConfig",
        ),
        Verb(
            "compare",
            "finetune.evaluation.compare:main",
            "compare finished runs on the same clips: budgets, differences, intervals",
            "RUN RUN ... [data.shards=DIR] [key=value ...]",
            "runs/a runs/b data.shards=shards/test",
            keys="finetune.verb_config:CompareConfig",
        ),
        Verb(
            "referee",
            "finetune.referee.referee:main",
            "judge a run on real images and videos by what is found in them",
            "RUN samples=DIR [key=value ...]",
            "runs/mesh samples=videos",
            keys="finetune.referee.config:RefereeConfig",
        ),
        Verb(
            "examine",
            "finetune.examine.command:main",
            "search poses, cameras, light and more for synthetic humans on whom a run fails",
            "RUN out=DIR [error=NAME] [given=true] [key=value ...]",
            "body out=examined",
            keys="finetune.examine.config:ExamineConfig",
            usual=("out", "error", "given", "random", "niches", "budget", "seed"),
        ),
        Verb(
            "predict",
            "finetune.predict:main",
            "recover the meshes of people and hands in images, videos, or before a camera",
            "IMAGE-or-VIDEO ... | camera=NUMBER-or-URL [run=RUN] [out=DIR] [boxes=FILE] "
            "[formats=NAMES] [key=value ...]",
            "photo.jpg",
            keys="finetune.verb_config:PredictFilesConfig",
            usual=("run", "out", "boxes", "formats", "refine"),
        ),
        Verb(
            "serve",
            "finetune.serve.command:main",
            "open a local page that shows the meshes of a photograph or clip",
            "[run=RUN] [port=N] [key=value ...]",
            "",
            keys="finetune.serve.config:ServeConfig",
        ),
        Verb(
            "predict_pair",
            "finetune.two_views.predict:main",
            "recover the mesh of a person or hand in two images at once",
            "FIRST SECOND run=RUN [calibration=FILE] [boxes=FILE] [key=value ...]",
            "left.jpg right.jpg run=runs/two_views calibration=cameras.json",
            keys="finetune.verb_config:PredictPairConfig",
        ),
        Verb(
            "fit",
            "finetune.fit.command:main",
            "fit bodies to the keypoints of clips, of one camera or several, as labels",
            "SHARDS-or-VIDEO out=DIR [body=NAME] [up=AXIS] [key=value ...]",
            "clips out=fitted",
            keys="finetune.fit.config:FitConfig",
            usual=("out", "body", "run", "up", "intrinsics", "fit.max_error", "device"),
        ),
        Verb(
            "fingers",
            "finetune.evaluation.fingers:main",
            "measure a body's fingers with and without the network of hands",
            "SHARDS ... [body=RUN] [hand=RUN] [key=value ...]",
            "shards/large body=body hand=hand",
            keys="finetune.verb_config:FingersConfig",
        ),
        Verb(
            "release",
            "finetune.released.release:main",
            "write a run as one small file of weights with a card, for others to use by name",
            "RUN name=NAME [out=DIR] [key=value ...]",
            "runs/mesh name=body",
            keys="finetune.verb_config:ReleaseConfig",
        ),
        Verb(
            "export onnx",
            "finetune.portable.command:main",
            "write a network as an ONNX file for other programs (pip install -e '.[onnx]')",
            "RUN out=FILE.onnx [part=network|encoder] [int8=true]",
            "body out=body.onnx",
            keys="finetune.verb_config:ExportOnnxConfig",
        ),
        Verb(
            "weights list",
            "finetune.released.commands:list_weights",
            "list the weights that ship",
            "[folder=DIR]",
            "",
            keys="finetune.verb_config:WeightsConfig",
        ),
        Verb(
            "weights show",
            "finetune.released.commands:show_weights",
            "print the card of weights: of what they are made, how good, at what bad",
            "NAME [folder=DIR]",
            "body",
            keys="finetune.verb_config:WeightsShowConfig",
        ),
        Verb(
            "weights check",
            "finetune.released.commands:check_weights",
            "check that each file of weights is the one that was released",
            "[folder=DIR]",
            "",
            keys="finetune.verb_config:WeightsConfig",
        ),
        Verb(
            "weights push",
            "finetune.released.commands:push_weights",
            "put weights and their page into a hub's repository (pip install -e '.[hub]')",
            "NAME repo=OWNER/NAME [private=true]",
            "body repo=somebody/meshes",
            keys="finetune.verb_config:WeightsPushConfig",
        ),
        Verb(
            "report",
            "finetune.report:main",
            "write a page that shows what a folder of shards and runs holds",
            "DIR [out=FILE.html] [key=value ...]",
            "runs/demo",
            keys="finetune.verb_config:ReportConfig",
        ),
        Verb(
            "replay",
            "finetune.train:replay",
            "read the batch of a step again and name its highest-loss samples",
            "RUN step=N [out=FILE.png] [key=value of the run ...]",
            "runs/mesh step=1200 out=highest_loss.png",
            keys="pretrain.verb_config:ReplayConfig",
        ),
        Verb(
            "demo",
            "finetune.demo:main",
            "go the whole path on synthetic humans, from clips to a page of results",
            "DIR [videos=DIR calibration=FILE track=FILE] [key=value ...]",
            "runs/demo",
            keys="finetune.demo:DemoConfig",
            usual=("clips", "workers", "device", "pretrain_steps", "finetune_steps"),
        ),
    ),
    example="finetune predict photo.jpg",
    default="train",
)


def main(argv: Sequence[str]) -> int:
    """Runs a verb of this package; returns its exit code."""
    return run_package(PACKAGE, argv)


if __name__ == "__main__":
    run(main)
