"""Fine-tuning: body and hand meshes from one image."""


def load(run, device="auto"):
    """A trained network that takes images and gives people.

        people = finetune.load("runs/demo/finetune_body")(image, boxes=None, intrinsics=None)

    Args:
        run: a fine-tuning run's folder, or one of its checkpoints.  device: "auto", "cpu" or
            "cuda".
    Returns:
        finetune.predict.Predictor; its call gives a list of finetune.person.Person.
    Raises:
        UserError: there is no such run, or it has no whole checkpoint.
    """
    # Loader workers are spawned and import this package; torch is paid for only by those who ask
    # for a network.
    from finetune.predict import load as load_run

    return load_run(run, device)
