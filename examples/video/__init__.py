"""A small text-to-video U-Net in torch and in Flax, side by side, and both trained. See docs/video.md."""
