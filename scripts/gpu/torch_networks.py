"""The networks of hardware-tests/networks.rs in PyTorch: the same layers and shapes, random weights.

PyTorch is handed in by the caller, so that this file can be read where there is none.
"""

# Of the quick form, too: (depths, width, image, classes) and (layers, width, heads, length, words).
RESNETS = {"resnet50": ((3, 4, 6, 3), 64, 224, 1000), "resnet50-small": ((1, 1), 8, 32, 10)}
BERTS = {
    "bert-base": (12, 768, 12, 128, 30522),
    "bert-large": (24, 1024, 16, 384, 30522),
    "bert-base-small": (2, 32, 2, 16, 100),
}


def shown(name: str, quick: bool) -> str:
    """The benchmark's name for it."""
    return f"{name}-small" if quick else name


def make(torch, name: str, quick: bool):
    """A network, and what a row of it is."""
    full = shown(name, quick)
    if full in RESNETS:
        return resnet(torch, *RESNETS[full]), "images"
    if full in BERTS:
        return bert(torch, *BERTS[full]), "sequences"
    raise SystemExit(f"unknown network {full}: expected one of {', '.join((*RESNETS, *BERTS))}")


def folded(torch, model):
    """Batch normalisation as part of the convolution before it, as triscore and ONNX Runtime have it."""
    nn = torch.nn
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential) and [type(m) for m in module] == [nn.Conv2d, nn.BatchNorm2d]:
            module[0] = nn.utils.fusion.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    return model


def inputs(torch, name: str, batch: int, quick: bool, dtype) -> list:
    """A batch on the GPU."""
    full = shown(name, quick)
    if full in RESNETS:
        image = RESNETS[full][2]
        x = torch.rand(batch, 3, image, image, device="cuda", dtype=dtype) * 2 - 1
        return [x.to(memory_format=torch.channels_last)]
    length, words = BERTS[full][3:]
    ids = torch.randint(0, words, (batch, length), device="cuda")
    return [ids, torch.ones_like(ids), torch.zeros_like(ids)]


def resnet(torch, depths, width: int, _image: int, classes: int):
    """With bottleneck blocks, the stride in the one of 3 × 3."""
    nn = torch.nn

    def layer(inputs: int, outputs: int, kernel: int, stride: int = 1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, channels: int, inner: int, stride: int, is_first: bool) -> None:
            super().__init__()
            self.a, self.b = layer(channels, inner, 1), layer(inner, inner, 3, stride)
            self.c = layer(inner, 4 * inner, 1)
            self.shortcut = layer(channels, 4 * inner, 1, stride) if is_first else nn.Identity()

        def forward(self, x):
            inner = torch.relu(self.b(torch.relu(self.a(x))))
            return torch.relu(self.c(inner) + self.shortcut(x))

    layers = [layer(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        inner = width << stage
        for block in range(depth):
            stride = 2 if block == 0 and stage > 0 else 1
            layers.append(Block(channels, inner, stride, block == 0))
            channels = 4 * inner
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def bert(torch, layers: int, width: int, heads: int, length: int, words: int):
    """With a classifier of two classes; the mask is added to the scores, as in the file, or left out."""
    nn, functional = torch.nn, torch.nn.functional

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # As one product, which is what a serving stack does.
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x, mask):
            batch = x.shape[0]
            split = self.qkv(x).view(batch, length, 3, heads, width // heads)
            q, k, v = split.permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed = mixed.transpose(1, 2).reshape(batch, length, width)
            x = self.first(self.out(mixed) + x)
            return self.second(self.outer(functional.gelu(self.inner(x))) + x)

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.kinds = nn.Embedding(words, width), nn.Embedding(2, width)
            self.places = nn.Parameter(torch.randn(1, length, width) * 0.5)
            self.norm = nn.LayerNorm(width)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 2)

        def forward(self, ids, mask, kinds, with_mask: bool = True):
            x = self.norm(self.words(ids) + self.kinds(kinds) + self.places)
            added = None
            if with_mask:
                added = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10_000.0
            for layer in self.layers:
                x = layer(x, added)
            return self.classifier(torch.tanh(self.pooler(x[:, 0])))

    return Bert()
