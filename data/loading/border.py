"""What an image shows beyond its edges: black, wherever a square is cut out of it.

The one rule of the shard writer (data.sources.cameras.cut), of small crops among large ones
(data.loading.reader), of augmentation (data.augment.crop) and of prediction (finetune.predict.cut):
a network that is trained on one kind of border and asked about another errs on everybody who stands
at the edge. Black, because repeated border pixels look like content, and a network learns to paint
streaks. Between the outermost pixels' centres and the edge, interpolation mixes with that black.
"""

BLACK = 0  # of uint8 and of floats in [0, 1], so before normalisation
PADDING = "zeros"  # how torch's grid_sample calls it
