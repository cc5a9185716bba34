"""Masked autoencoding of timm's vision transformers."""

from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture import noise, undisturbed
from attention_transfer.capture.overridden_module import Changed
from attention_transfer.distiller import Output
from attention_transfer.errors import InputError
from attention_transfer.methods import Phase, Term
from attention_transfer.pretraining.decoder import Decoder, normalised, num_seen, patches_of, random_order, take
from attention_transfer.pretraining.settings import MaskedAutoencoding

RECONSTRUCTION = "reconstruction"


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder: a vision transformer encodes a few patches of each image, a decoder reconstructs the others.

    He et al., Masked Autoencoders Are Scalable Vision Learners (CVPR 2022, arXiv:2111.06377), section 3: the encoder
    runs on the visible patches only, each with its own position embedding; the loss is the mean squared error over the
    pixels of the masked ones.

    It has the interface of a `Distiller` and gives an `Output`, whose logits are those of no classes, so that the
    training loop runs both. Which patches are masked is a function of (seed, epoch, dataset index).

    Args:
        encoder: a vision transformer of timm, which stays the user's own object; its last layer must be left out.
        settings: of mask, decoder and target.
        example: images of the shape and device of training; their values are ignored.
        seed: seed of the masks.

    Attributes:
        student: the encoder.
        decoder: dropped after the pre-training.
        num_patches: patches of an image.
        num_seen: visible patches of an image, which the encoder runs on.

    Raises:
        ValueError: for a network that is no such transformer, or images that it does not take or patches do not tile.

    Departs from the paper: the encoder's position embeddings are its own (timm's are learned) and its weights start as
    timm draws them; the decoder is lighter and gives the encoder's prefix tokens no position; where the encoder norms
    only after pooling (`global_pool="avg"`), the norm before the decoder belongs to the decoder and is dropped with it.
    """

    def __init__(
        self, encoder: nn.Module, settings: MaskedAutoencoding, *, example: Float[Tensor, "b 3 h w"], seed: int = 0
    ) -> None:
        super().__init__()
        network = _checked(encoder, example)
        patch = cast("tuple[int, int]", network.patch_embed.patch_size)
        grid = (example.shape[2] // patch[0], example.shape[3] // patch[1])
        # Under this name a run saves it, as it does a distiller's student.
        self.student = network
        self.settings = settings
        self.num_patches = grid[0] * grid[1]
        self.num_seen = num_seen(self.num_patches, settings.mask_ratio)
        self.phase = Phase("all")
        self._patch, self._seed = patch, seed
        self._visible: Tensor | None = None
        # Where timm drops patches itself, at the end of everything before the norms and blocks.
        self._seen = Changed(network.patch_drop, self._leave_out)
        self.decoder = Decoder(
            network.embed_dim,
            grid,
            network.num_prefix_tokens,
            patch[0] * patch[1] * example.shape[1],
            settings,
            norm=isinstance(network.norm, nn.Identity),
        ).to(example.device)
        # A tensor, so that a compiled step is not compiled anew in every epoch.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64, device=example.device), persistent=False)
        with torch.enable_grad(), undisturbed(self):
            self._unused = self._probe(noise(example))

    # ------------------------------------------------------------------ the step

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Tensor | None = None,
        index: Int64[Tensor, " b"] | None = None,
    ) -> Output:
        """The reconstruction loss of one step.

        Args:
            images: normalised.
            labels: ignored.
            index: dataset indices of the images, which decide the masks.

        Raises:
            ValueError: without dataset indices.
        """
        del labels
        if index is None:
            raise InputError("index is needed: the dataset indices of the images decide which patches are masked")
        order = random_order(index, self.num_patches, seed=self._seed, epoch=cast(Tensor, self.epoch))
        encoded = self.encode(images, order[:, : self.num_seen])
        predicted = self.decoder(encoded, order)
        # The loss is float32 whatever the networks computed in.
        with torch.autocast(images.device.type, enabled=False):
            wanted = take(patches_of(images.float(), self._patch), order[:, self.num_seen :])
            if self.settings.normalise_patches:
                wanted = normalised(wanted)
            loss = functional.mse_loss(predicted.float(), wanted)
        # Logits of no classes, where a distiller has the student's: there is no accuracy to measure.
        return Output({RECONSTRUCTION: Term(loss, 1.0)}, predicted.new_empty(len(images), 0).detach())

    def encode(self, images: Float[Tensor, "b 3 h w"], visible: Int64[Tensor, "b k"]) -> Float[Tensor, "b t d"]:
        """Tokens of the encoder for some patches of each image: prefix tokens, then those of the patches.

        Args:
            images: normalised.
            visible: indices of the visible patches, counted row by row.
        """
        self._visible = visible
        try:
            return self._seen.run(lambda: self.student.forward_features(images))
        finally:
            self._visible = None

    def backward(self, out: Output) -> None:
        """Accumulate the gradient of a step."""
        out.loss.backward()

    # ------------------------------------------------------------------ what is trained

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the optimiser should have."""
        for module in self.trained_modules().values():
            yield from (p for p in module.parameters() if p.requires_grad)

    def trained_modules(self) -> dict[str, nn.Module]:
        """Encoder and decoder, by name."""
        return {"student": self.student, "decoder": self.decoder}

    def unused_parameters(self) -> tuple[str, ...]:
        """Names of parameters without gradient (those behind the encoder's last layer of tokens)."""
        return self._unused

    def num_epochs(self, epochs: int) -> int:
        """Epochs of the whole training: those of its only phase."""
        return epochs

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Move the masks to an epoch, counted from 0."""
        del epochs
        cast(Tensor, self.epoch).fill_(epoch)

    def set_phase(self, phase: Phase, first_epoch: int = 0) -> None:
        """Enter the only phase that there is."""
        del first_epoch
        self.phase = phase

    @property
    def tokens(self) -> int:
        """Tokens of an image in the decoder, masked ones included."""
        return self.num_patches + self.student.num_prefix_tokens

    @property
    def deployed(self) -> nn.Module:
        """The encoder, which is used without the decoder."""
        return self.student

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One, which trains everything."""
        return (Phase("all"),)

    def detach(self) -> None:
        """Leave the encoder as it is: nothing was attached to it."""

    # ------------------------------------------------------------------ inside

    def _leave_out(self, all_tokens: Tensor, kept: Tensor) -> Tensor:
        assert self._visible is not None
        # What the network would drop at random is seen.
        tokens = kept if isinstance(self.student.patch_drop, nn.Identity) else all_tokens
        prefix = self.student.num_prefix_tokens
        if tokens.shape[1] != prefix + self.num_patches:
            raise InputError(
                f"the encoder has {tokens.shape[1]} tokens where {prefix} and one for each of {self.num_patches} "
                "patches are wanted: older versions of timm leave the class token out without position embedding"
            )
        return torch.cat([tokens[:, :prefix], take(tokens[:, prefix:], self._visible)], dim=1)

    def _probe(self, image: Tensor) -> tuple[str, ...]:
        """Run once on noise: names of the parameters that the loss does not reach."""
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        index = torch.arange(len(image), device=image.device)
        gradients = torch.autograd.grad(self(image, None, index).loss, list(named.values()), allow_unused=True)
        reached = cast("tuple[Tensor | None, ...]", gradients)
        return tuple(name for name, gradient in zip(named, reached, strict=True) if gradient is None)


def _checked(encoder: nn.Module, example: Tensor) -> VisionTransformer:
    """The encoder, if it can be trained on such images."""
    kind = type(encoder)
    if not isinstance(encoder, VisionTransformer):
        raise InputError(
            f"masked autoencoding trains vision transformers of timm (such as timm:vit_tiny_patch16_224), whose "
            f"patches it can leave out; {kind.__module__}.{kind.__name__} is none"
        )
    if not isinstance(encoder.head, nn.Identity):
        raise InputError("the encoder has a classifier, which nothing would train: call its reset_classifier(0) first")
    height, width = example.shape[2:]
    tall, wide = cast("tuple[int, int]", encoder.patch_embed.patch_size)
    if height % tall or width % wide:
        raise InputError(
            f"patches of {tall}×{wide} do not tile images of {height}×{width}: choose another --image-size, or another "
            "patch_size in the model's name"
        )
    size = encoder.patch_embed.img_size
    if encoder.patch_embed.strict_img_size and size is not None and tuple(size) != (height, width):
        raise InputError(
            f"the encoder takes images of {size[0]}×{size[1]}, not {height}×{width}: write img_size={height} in the "
            "model's name, or bring the images to its size (--image-size)"
        )
    if encoder.patch_embed.num_patches != (height // tall) * (width // wide):
        raise InputError(
            f"the encoder makes {encoder.patch_embed.num_patches} tokens of an image and not one for each of its "
            f"patches of {tall}×{wide}: networks that begin with convolutions (hybrid) cannot leave patches out"
        )
    if (height // tall) * (width // wide) < 2:
        raise InputError(f"images of {height}×{width} are a single patch: nothing would be left to see")
    return encoder
