"""Boundaries: principal channels, and the way back."""

import numpy as np
import pytest
import torch

from stillhouse.spaces.modules.pca import PCAExpand, PCAProject, RunningCovariance


@pytest.fixture(scope="module")
def feature():
    torch.manual_seed(0)
    mixed = torch.randn(64, 6, 5, 5) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1, 0.01]).view(
        1, -1, 1, 1
    )
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    return torch.einsum("ij,njhw->nihw", turn, mixed) + torch.arange(6.0).view(1, -1, 1, 1)


@pytest.fixture(scope="module")
def principal(feature):
    moments = RunningCovariance(6, torch.device("cpu"))
    for part in feature.split(20):
        moments.update(part)
    return moments.principal_components()


def test_they_are_the_principal_components(feature, principal):
    basis, mean, variances = principal
    rows = feature.movedim(1, -1).flatten(0, -2).double().numpy()
    assert mean.numpy() == pytest.approx(rows.mean(0), rel=1e-4)
    singular = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert variances.numpy() == pytest.approx(singular.S**2 / len(rows), rel=1e-3, abs=1e-4)
    assert np.abs((basis.double().numpy() * singular.Vh).sum(1)) == pytest.approx(
        np.ones(6), abs=1e-4
    )
    assert torch.allclose(basis @ basis.t(), torch.eye(6), atol=1e-5)


def test_all_channels_come_back(feature, principal):
    basis, mean, _ = principal
    back = PCAExpand(basis, mean)(PCAProject(basis, mean)(feature))
    assert torch.allclose(back, feature, atol=1e-4)


def test_what_is_lost_is_the_variance_left_out(feature, principal):
    basis, mean, variances = principal
    back = PCAExpand(basis[:3], mean)(PCAProject(basis[:3], mean)(feature))
    lost = (back - feature).square().sum(1).mean()
    assert lost.item() == pytest.approx(variances[3:].sum().item(), rel=1e-3)


def test_an_empty_one_loads(principal):
    basis, mean, _ = principal
    narrow = PCAProject.empty(3, 6)
    narrow.load_state_dict(PCAProject(basis[:3], mean).state_dict())
    assert torch.equal(narrow.basis, basis[:3])
