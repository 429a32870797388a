"""PyTorch's own attention, in its encoder and in PyG's GPSConv, replaced."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch_geometric.nn import GINConv, GPSConv

from hsa_geometric import from_parent
from hsa_geometric.adapters import replace_attention, restore_attention

WINDOWS = {"hierarchy": (4, 8), "lists": 1.0}
LENGTHS = torch.tensor([20, 13])
PADDING = torch.arange(20) >= LENGTHS[:, None]


def encoder(batch_first=True, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, dropout=0.0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says why it has no fast path
        model = nn.TransformerEncoder(layer, 2)
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.in_proj_weight.mul_(4)
    return model.eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 20, 32)


def left(mask):
    return mask.flip(1)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_star_is_the_original_padded_or_not(x, norm_first):
    model = encoder(norm_first=norm_first)
    for padding in (None, PADDING, left(PADDING)):
        real = torch.ones(2, 20, dtype=bool) if padding is None else ~padding
        expected = model(x, src_key_padding_mask=padding)
        replace_attention(model, hierarchy="star")
        found = model(x, src_key_padding_mask=padding)
        assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
        restore_attention(model)
        assert torch.equal(model(x, src_key_padding_mask=padding), expected)


def test_a_star_is_as_near_to_the_truth_as_the_original_in_bfloat16(x):
    model, x = encoder().bfloat16(), x.bfloat16()
    wanted = copy.deepcopy(model).double()(x.double(), src_key_padding_mask=PADDING)
    original = model(x, src_key_padding_mask=PADDING)
    found = replace_attention(model, hierarchy="star")(x, src_key_padding_mask=PADDING)
    softmax, ours = ((y - wanted)[~PADDING].abs().mean() for y in (original, found))
    assert ours < 1.5 * softmax


@pytest.mark.parametrize("fastpath", [True, False])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_the_same_in_training_eval_and_without_gradients(x, padding, fastpath):
    model = replace_attention(encoder(), **WINDOWS)
    softmax = encoder()(x, src_key_padding_mask=padding)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        expected = model.train()(x, src_key_padding_mask=padding)
        found = model.eval()(x, src_key_padding_mask=padding)
        with torch.no_grad():
            quiet = model(x, src_key_padding_mask=padding)
        with torch.inference_mode():
            inferred = model(x, src_key_padding_mask=padding)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert not torch.allclose(expected, softmax, atol=1e-2)
    for other in (found, quiet, inferred):
        assert_close(other, expected, atol=1e-6, rtol=1e-6)


def test_a_single_layer_keeps_off_its_fast_path(x):
    layer = encoder().layers[0]
    replace_attention(layer, **WINDOWS)
    with torch.no_grad():
        quiet = layer(x)
    assert_close(quiet, layer.train()(x), atol=1e-6, rtol=1e-6)
    restore_attention(layer)
    assert layer.activation_relu_or_gelu == 1


def test_layouts_agree(x):
    model, other = (replace_attention(encoder(first), **WINDOWS) for first in (True, False))
    expected = model(x, src_key_padding_mask=PADDING)
    found = other(x.transpose(0, 1), src_key_padding_mask=PADDING).transpose(0, 1)
    assert_close(found, expected)
    alone = model.layers[0](x[1, :13])
    assert_close(alone, model.layers[0](x, src_key_padding_mask=PADDING)[1, :13])


def test_masks_as_booleans_and_as_numbers(x):
    model = replace_attention(encoder(), **WINDOWS).layers[0].self_attn
    low = torch.zeros(2, 20).masked_fill(PADDING, -torch.inf)
    expected, _ = model(x, x, x, key_padding_mask=PADDING, need_weights=False)
    assert (expected[PADDING] == model.out_proj.bias).all()  # attention there is 0
    every = PADDING[:, None, None, :].expand(2, 4, 20, 20).flatten(0, 1)
    for mask in (
        {"key_padding_mask": low},
        {"attn_mask": every},
        {"attn_mask": torch.zeros(every.shape).masked_fill(every, -torch.inf)},
    ):
        assert torch.equal(model(x, x, x, need_weights=False, **mask)[0], expected)
    last = torch.arange(20) >= 18
    both = model(x, x, x, need_weights=False, key_padding_mask=PADDING,
                 attn_mask=last.expand(20, 20))[0]  # fmt: skip
    one = model(x, x, x, need_weights=False, key_padding_mask=PADDING | last)[0]
    assert torch.equal(both, one)


def test_rows_whose_keys_are_all_masked_get_nothing(x):
    padding = PADDING.clone()
    padding[1] = True
    model = replace_attention(encoder(), **WINDOWS)
    found, _ = model.layers[0].self_attn(x, x, x, key_padding_mask=padding, need_weights=False)
    assert (found[1] == model.layers[0].self_attn.out_proj.bias).all()
    for train in (True, False):
        assert model.train(train)(x, src_key_padding_mask=padding).isfinite().all()


def test_what_cannot_be_honoured_is_refused_naming_the_module(x):
    model = replace_attention(encoder(), **WINDOWS)
    attention = model.layers[1].self_attn
    causal = nn.Transformer.generate_square_subsequent_mask(20)
    with pytest.raises(ValueError, match=r"need_weights=False.* in 'layers.1.self_attn'"):
        attention(x, x, x)
    with pytest.raises(ValueError, match=r"alike for all queries in 'layers.0.self_attn'"):
        model(x, mask=causal, is_causal=False)
    with pytest.raises(ValueError, match=r"not causal in 'layers.0.self_attn'"):
        model(x, mask=causal, is_causal=True)
    with pytest.raises(ValueError, match="self-attention: "):
        attention(x, x + 1, x, need_weights=False)
    with pytest.raises(ValueError, match="of padding: 0, or minus infinity"):
        attention(x, x, x, attn_mask=torch.rand(20, 20), need_weights=False)
    with pytest.raises(ValueError, match=r"replaced \(got MultiheadAttention: .* keys of its own"):
        replace_attention(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    with pytest.raises(ValueError, match="kdim or vdim"):
        replace_attention(nn.MultiheadAttention(8, 2, kdim=4, vdim=4))


def test_gradients_state_dict_and_copies(x):
    model = encoder()
    names = list(model.state_dict())
    model(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    replace_attention(model, hierarchy="star")
    assert list(model.state_dict()) == names
    model(x).square().sum().backward()
    for name, p in model.named_parameters():
        assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-4)
    other = copy.deepcopy(replace_attention(model, **WINDOWS))
    assert torch.equal(other(x), model(x))
    assert other.layers[0].self_attn.forward.args[0] is other.layers[0].self_attn
    restore_attention(other)
    assert other.use_nested_tensor
    assert other.layers[0].activation_relu_or_gelu == 1
    assert not model.use_nested_tensor
    assert "forward" not in vars(other.layers[0].self_attn)


def test_only_the_named_layers_are_replaced(x):
    model, softmax = encoder(), encoder()
    replace_attention(model, layers=[1], **WINDOWS)
    assert torch.equal(model.layers[0](x), softmax.layers[0](x))
    assert not torch.allclose(model.layers[1](x), softmax.layers[1](x), atol=1e-3)


def test_dropout_of_weights_in_training_only(x):
    model = nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True)
    replace_attention(model, hierarchy="star")
    one, two = (model(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.equal(one, two)
    model.eval()
    one, two = (model(x, x, x, need_weights=False)[0] for _ in range(2))
    assert torch.equal(one, two)


def test_global_attention_of_graphs_along_their_trees():
    torch.manual_seed(0)
    model = GPSConv(16, GINConv(nn.Linear(16, 16)), heads=2, norm=None, dropout=0.0).eval()
    x, edges = torch.randn(12, 16), torch.tensor([[0, 1, 5, 6, 11], [1, 2, 6, 7, 10]])
    batch = torch.tensor([0] * 5 + [1] * 7)
    expected = model(x, edges, batch)
    replace_attention(model, hierarchy="star")
    assert_close(model(x, edges, batch), expected, atol=1e-5, rtol=1e-5)
    one = from_parent([5, 5, 6, 6, 6, 7, 7, 7])
    two = from_parent([7, 7, 7, 8, 8, 8, 8, 9, 9, 9])
    forest = torch.cat([one.parent, two.parent + 8])
    replace_attention(model, hierarchy=forest)
    found = model(x, edges, batch)
    assert not torch.allclose(found, expected, atol=1e-4)
    replace_attention(model, hierarchy=one.parent)
    assert_close(found[:5], model(x[:5], edges[:, :2], batch[:5]))
    with pytest.raises(ValueError, match=r"trees of \[5, 7\] leaves.*'attn' \(got \[5, 5\]\)"):
        model(x, edges, batch)
    assert torch.equal(restore_attention(model)(x, edges, batch), expected)
