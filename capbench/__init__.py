"""capbench: train, score and compare image captioners, any timm encoder x any decoder x any captioned images."""

__version__ = "0.1.0"
