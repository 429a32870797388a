"""LightningDataset, explainers and summaries of PyG, on hierarchies and models with the layer."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch_geometric.data.lightning import LightningDataset
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import global_add_pool, summary

from hsa_geometric import Hierarchy, from_points
from hsa_geometric.nn import HierarchicalAttentionConv


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = HierarchicalAttentionConv(4, 8, heads=2)
        self.lin = torch.nn.Linear(16, 1)

    def forward(self, x, edge_index, tree, batch=None):
        return self.lin(global_add_pool(self.conv(x, tree).relu(), batch))


def samples():
    torch.manual_seed(0)
    return [
        from_points(torch.rand(n, 3), x=torch.randn(n, 4), y=torch.randn(1)) for n in (5, 9, 12, 7)
    ]


class Lit(LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.seen = Model(), []

    def training_step(self, batch, _):
        assert isinstance(batch, Hierarchy) and batch.tree.num_trees == batch.num_graphs
        self.seen.append(batch.num_nodes)
        out = self.model(batch.x, None, batch.tree, batch.batch)
        return (out.squeeze(1) - batch.y).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about workers and loggers
def test_lightning_trains_on_batches_of_hierarchies(tmp_path):
    data = LightningDataset(train_dataset=samples(), batch_size=2, num_workers=0)
    lit = Lit()
    before = lit.model.conv.lin_value.weight.clone()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(lit, data)
    assert len(lit.seen) == 2 and sum(lit.seen) == 33
    assert not torch.equal(before, lit.model.conv.lin_value.weight)


def explained(model, h):
    explainer = Explainer(
        model,
        algorithm=GNNExplainer(epochs=60, lr=0.1),
        explanation_type="model",
        node_mask_type="attributes",
        model_config={"mode": "regression", "task_level": "graph", "return_type": "raw"},
    )
    return explainer(h.x, torch.empty(2, 0, dtype=torch.long), tree=h.tree)


def test_an_explainer_finds_the_feature_that_the_model_reads():
    h = from_points(torch.rand(12, 3), x=torch.randn(12, 4))
    model = Model()
    with torch.no_grad():
        for lin in (model.conv.lin_query, model.conv.lin_key, model.conv.lin_value):
            lin.weight[:, 1:] = 0  # only feature 0 says anything
    explanation = explained(model, h)
    assert explanation.validate()
    assert explanation.node_mask.shape == (12, 4)
    assert explanation.node_mask[:, 0].sum() > 0
    assert explanation.node_mask[:, 1:].sum() == 0


def test_a_summary_lists_the_layer_with_its_shapes_and_parameters():
    h = samples()[2]
    model = Model()
    lines = summary(model, h.x, None, h.tree).splitlines()
    (line,) = [line for line in lines if "(conv)HierarchicalAttentionConv" in line]
    assert "[12, 4]" in line and "[12, 16]" in line
    assert f"{sum(p.numel() for p in model.conv.parameters()):,}" in line
