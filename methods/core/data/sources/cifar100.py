"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour photographs of 32x32, the fine classes."""

from __future__ import annotations

from torchvision import datasets

from stillhouse.methods.core.data.formats.published import PublishedSource
from stillhouse.methods.core.data.formats.torchvision_files import PickledFiles

_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class Cifar100(PublishedSource):
    """CIFAR-100, as pickled batches or Parquet files."""

    form = PickledFiles
    dataset = datasets.CIFAR100
    parquet_folder = "cifar100"
    label_column = "fine_label"
    shape = (3, 32, 32)
    class_names = tuple(_NAMES.split())
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
