// Rendered from codesign/kernels/layers.py.
#pragma once

enum Activation { LINEAR, RELU, PRELU, TANH, SIGMOID };
