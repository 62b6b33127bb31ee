"""What a user would pick instead of us, rebuilt plainly with its published defaults, for experiments/benchmark.py.

- The VQ-VAE and the PixelCNN of the Keras tutorial, https://keras.io/examples/generative/vq_vae/: 32 and 64
  channels, 4x, 128 codes of 16 numbers; a prior of masked convolutions, 128 channels, two residual blocks,
  sampled by ``predict`` of all grids once per code.
- The PyTorch VQ-VAE and gated PixelCNN of https://github.com/MishaLaskin/vqvae: 128 channels, 32 residual ones,
  two residual blocks, 512 codes of 64 numbers, 4x; 15 gated layers of 64 channels, sampled by one full pass per
  code. Its two residual blocks have weights of their own here (there they are one block, by an oversight).

The four functions that are named for a rival return two calls that do their work and wait for it. None takes
arguments but the passes of the priors: each draws the codes of one place (row, column).
"""


# ---- the Keras tutorial -------------------------------------------------------------------------


def keras_vqvae(height, width, batch_size):
    """(one training step, one batch of reconstructions) of the tutorial's VQ-VAE on random images."""
    import keras
    import tensorflow as tf

    encoder, decoder, codebook = keras_vqvae_parts(height, width)
    weights = encoder.trainable_variables + decoder.trainable_variables + [codebook]
    optimizer = keras.optimizers.Adam()
    batch = tf.random.uniform((batch_size, height, width, 1)) - 0.5
    variance = tf.math.reduce_variance(batch)

    def quantize(z_e):
        code_dim, num_codes = codebook.shape
        flat = tf.reshape(z_e, (-1, code_dim))
        distances = (
            tf.reduce_sum(flat**2, axis=1, keepdims=True)
            + tf.reduce_sum(codebook**2, axis=0)
            - 2 * tf.matmul(flat, codebook)
        )
        assigned = tf.one_hot(tf.argmin(distances, axis=1), num_codes)
        return tf.reshape(tf.matmul(assigned, codebook, transpose_b=True), tf.shape(z_e))

    @tf.function
    def train_step():
        with tf.GradientTape() as tape:
            z_e = encoder(batch)
            embedded = quantize(z_e)
            reconstructions = decoder(z_e + tf.stop_gradient(embedded - z_e))
            loss = (
                tf.reduce_mean((batch - reconstructions) ** 2) / variance
                + 0.25 * tf.reduce_mean((tf.stop_gradient(embedded) - z_e) ** 2)
                + tf.reduce_mean((embedded - tf.stop_gradient(z_e)) ** 2)
            )
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    reconstruct = tf.function(lambda: decoder(quantize(encoder(batch))))
    return lambda: train_step().numpy(), lambda: reconstruct().numpy()


def keras_vqvae_parts(height, width, num_codes=128, code_dim=16):
    """Encoder, decoder, and codebook (D, K)."""
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(0)
    images = x = keras.Input((height, width, 1))
    for channels in (32, 64):
        x = layers.Conv2D(channels, 3, activation="relu", strides=2, padding="same")(x)
    encoder = keras.Model(images, layers.Conv2D(code_dim, 1)(x))
    codes = x = keras.Input((height // 4, width // 4, code_dim))
    for channels in (64, 32):
        x = layers.Conv2DTranspose(channels, 3, activation="relu", strides=2, padding="same")(x)
    decoder = keras.Model(codes, layers.Conv2DTranspose(1, 3, padding="same")(x))
    return encoder, decoder, tf.Variable(tf.random.uniform((code_dim, num_codes), -0.05, 0.05))


def keras_pixelcnn(grid, batch_size, count, num_codes=128):
    """(one training step, one of the passes that sample ``count`` grids) of the tutorial's prior, 128 codes."""
    import keras
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp

    model = keras_pixelcnn_model(grid, num_codes)
    model.compile(keras.optimizers.Adam(3e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = np.random.default_rng(0).integers(num_codes, size=(batch_size, *grid))
    priors = np.zeros((count, *grid), np.int32)

    def sampling_pass(row, column):
        logits = tf.constant(model.predict(priors, verbose=0))
        priors[:, row, column] = tfp.distributions.Categorical(logits=logits).sample().numpy()[:, row, column]

    return lambda: model.train_on_batch(batch, batch), sampling_pass


def keras_pixelcnn_model(grid, num_codes, filters=128):
    """Codes (B, h, w) -> logits (B, h, w, K)."""
    import keras
    import numpy as np
    from keras import layers, ops

    class MaskedConv(layers.Layer):
        def __init__(self, mask_type, channels, size):
            super().__init__()
            self.mask_type = mask_type
            self.conv = layers.Conv2D(channels, size, padding="same")

        def build(self, shape):
            self.conv.build(shape)
            rows, columns = self.conv.kernel.shape[:2]
            mask = np.zeros(self.conv.kernel.shape, np.float32)
            mask[: rows // 2] = 1
            mask[rows // 2, : columns // 2 + (self.mask_type == "B")] = 1
            self.mask = mask

        def call(self, x):
            return ops.relu(ops.conv(x, self.conv.kernel * self.mask, padding="same") + self.conv.bias)

    codes = keras.Input(grid, dtype="int32")
    x = MaskedConv("A", filters, 7)(ops.one_hot(codes, num_codes))
    for _ in range(2):
        inner = layers.Conv2D(filters, 1, activation="relu")(x)
        inner = MaskedConv("B", filters // 2, 3)(inner)
        x = x + layers.Conv2D(filters, 1, activation="relu")(inner)
    for _ in range(2):
        x = MaskedConv("B", filters, 1)(x)
    return keras.Model(codes, layers.Conv2D(num_codes, 1)(x))


# ---- PyTorch ------------------------------------------------------------------------------------


def torch_vqvae(height, width, batch_size, setting):
    """(one training step, one batch of reconstructions) of the PyTorch VQ-VAE on random images.

    ``setting``: "default"; "channels_last"; or "bfloat16", which is channels_last and autocast.
    """
    from contextlib import nullcontext

    import torch
    from torch.nn import functional

    model, beta = torch_vqvae_model(), 0.25
    encoder, decoder, codebook = model
    num_codes, code_dim = codebook.weight.shape
    batch = 2 * torch.rand(batch_size, 1, height, width) - 1
    if setting != "default":
        model, batch = (x.to(memory_format=torch.channels_last) for x in (model, batch))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, amsgrad=True)
    variance = float(batch.var())

    def precision():
        return torch.autocast(batch.device.type, torch.bfloat16) if setting == "bfloat16" else nullcontext()

    def forward():
        with precision():
            z_e = encoder(batch).float().permute(0, 2, 3, 1)  # (B, h, w, D)
        flat = z_e.reshape(-1, code_dim)
        distances = (flat**2).sum(1, keepdim=True) + (codebook.weight**2).sum(1) - 2 * flat @ codebook.weight.t()
        assigned = functional.one_hot(distances.argmin(1), num_codes).float()
        embedded = (assigned @ codebook.weight).view(z_e.shape)
        loss = ((embedded.detach() - z_e) ** 2).mean() + beta * ((embedded - z_e.detach()) ** 2).mean()
        straight_through = (z_e + (embedded - z_e).detach()).permute(0, 3, 1, 2)
        with precision():
            return decoder(straight_through).float(), loss

    def train_step():
        optimizer.zero_grad()
        reconstructions, loss = forward()
        loss = loss + ((reconstructions - batch) ** 2).mean() / variance
        loss.backward()
        optimizer.step()
        return loss.item()

    return train_step, torch.no_grad()(lambda: forward()[0].numpy())


def torch_vqvae_model(channels=128, residual=32, num_codes=512, code_dim=64):
    """Encoder, decoder and codebook, as a ModuleList."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, residual, 3, 1, 1, bias=False),
                nn.ReLU(),
                nn.Conv2d(residual, channels, 1, bias=False),
            )

        def forward(self, x):
            return x + self.inner(x)

    encoder = nn.Sequential(
        nn.Conv2d(1, channels // 2, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, 1, 1),
        Residual(),
        Residual(),
        nn.ReLU(),
        nn.Conv2d(channels, code_dim, 1),
    )
    decoder = nn.Sequential(
        nn.ConvTranspose2d(code_dim, channels, 3, 1, 1),
        Residual(),
        Residual(),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(channels // 2, 1, 4, 2, 1),
    )
    codebook = nn.Embedding(num_codes, code_dim)
    nn.init.uniform_(codebook.weight, -1 / num_codes, 1 / num_codes)
    return nn.ModuleList([encoder, decoder, codebook])


def torch_pixelcnn(grid, batch_size, count, num_codes=512):
    """(one training step, one of the passes that sample ``count`` grids) of the gated PixelCNN, 15 x 64, 512 codes."""
    import torch
    from torch.nn import functional

    model = torch_pixelcnn_model(num_codes)
    embedding, stack, head = model
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    batch = torch.randint(num_codes, (batch_size, *grid))
    drawn = torch.zeros((count, *grid), dtype=torch.int64)

    def logits_of(codes):
        vertical = horizontal = embedding(codes).permute(0, 3, 1, 2)
        label = torch.zeros(len(codes), dtype=torch.int64)
        for layer in stack:
            vertical, horizontal = layer(vertical, horizontal, label)
        return head(horizontal)  # (B, K, h, w)

    def train_step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits_of(batch), batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def sampling_pass(row, column):
        probabilities = logits_of(drawn)[:, :, row, column].softmax(-1)
        drawn[:, row, column] = probabilities.multinomial(1)[:, 0]

    return train_step, sampling_pass


def torch_pixelcnn_model(num_codes, width=64, num_layers=15):
    """Embedding, gated layers and head, as a ModuleList."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Gated(nn.Module):
        def __init__(self, first):
            super().__init__()
            reach = 3 if first else 1
            self.first = first
            self.label = nn.Embedding(10, 2 * width)
            self.vertical = nn.Conv2d(width, 2 * width, (reach + 1, 2 * reach + 1), 1, reach)
            self.link = nn.Conv2d(2 * width, 2 * width, 1)
            self.horizontal = nn.Conv2d(width, 2 * width, (1, reach + 1), 1, (0, reach))
            self.out = nn.Conv2d(width, width, 1)

        def gate(self, x):
            features, gates = x.chunk(2, dim=1)
            return torch.tanh(features) * torch.sigmoid(gates)

        def forward(self, vertical, horizontal, label):
            if self.first:  # blind to its own place
                self.vertical.weight.data[:, :, -1] = 0
                self.horizontal.weight.data[:, :, :, -1] = 0
            label = self.label(label)[:, :, None, None]
            v = self.vertical(vertical)[:, :, : vertical.shape[2]]
            h = self.horizontal(horizontal)[..., : horizontal.shape[3]]
            out = self.out(self.gate(self.link(v) + h + label))
            return self.gate(v + label), out if self.first else out + horizontal

    embedding = nn.Embedding(num_codes, width)
    stack = nn.ModuleList([Gated(i == 0) for i in range(num_layers)])
    head = nn.Sequential(nn.Conv2d(width, 512, 1), nn.ReLU(), nn.Conv2d(512, num_codes, 1))
    return nn.ModuleList([embedding, stack, head])
