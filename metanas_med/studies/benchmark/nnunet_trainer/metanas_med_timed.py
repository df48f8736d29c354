"""nnU-Net's own trainer with other numbers of epochs and of iterations an epoch, so that its schedule fits a measured time.

Nothing else is changed. nnU-Net finds this file through its environment variable ``nnUNet_extTrainer``; nothing here imports it.
"""

import os

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]


class nnUNetTrainerTimed(nnUNetTrainer):
    # the signature must equal its parent's: nnU-Net reads it to write checkpoints
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["METANAS_MED_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["METANAS_MED_ITERATIONS"])
        self.num_val_iterations_per_epoch = int(os.environ["METANAS_MED_VAL_ITERATIONS"])
