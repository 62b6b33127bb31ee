"""How good images, codes and sets of images are."""
