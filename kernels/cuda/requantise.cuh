// From sums to stored values: activations in FP32, and the integer rule of codesign/hw/numerics.py, bit for bit.
#pragma once

#include "activation.cuh"
#include "lanes.cuh"

constexpr long long LIMIT = 1ll << 30;

// product / 2^shift, rounded half to even. WIDE: the shift is known to be 32 or more.
template <bool WIDE>
DEVICE int round_shift(long long product, int shift) {
  if (WIDE) {
    const long long up = product + (1ll << (shift - 1));
    const int high = static_cast<int>(up >> 32), quotient = high >> (shift - 32);
    const bool tie = static_cast<unsigned>(up) == 0 && (high & ((1 << (shift - 32)) - 1)) == 0;
    return tie ? quotient & ~1 : quotient;
  }
  if (shift == 0) return static_cast<int>(min(max(product, -LIMIT), LIMIT));
  const long long up = product + (1ll << (shift - 1)), quotient = up >> shift;
  const bool tie = (up & ((1ll << shift) - 1)) == 0;
  const long long rounded = tie ? quotient & ~1ll : quotient;
  return static_cast<int>(min(max(rounded, -LIMIT), LIMIT));  // every caller clamps to 8 bits
}

// The second operand of a layer: clip(round(((q - z) m + (o - z') m') / 2^shift) + zero point).
struct AddRule {
  int zero_point, other_zero_point, multiplier, other_multiplier, shift, output_zero_point, low, high;

  DEVICE int apply(int value, int other) const {
    const long long sum = static_cast<long long>(value - zero_point) * multiplier +
                          static_cast<long long>(other - other_zero_point) * other_multiplier;
    return min(max(round_shift<false>(sum, shift) + output_zero_point, low), high);
  }
};

// Per-channel parameters of the columns that a lane holds: 2 (lane % 4) and the next, of each tile of 8 channels.
template <class E, int TILES, bool SLOPES>
struct Epilogue;

template <int TILES, bool SLOPES>
struct Epilogue<Half, TILES, SLOPES> {
  float bias[TILES * 2], slope[SLOPES ? TILES * 2 : 1];

  DEVICE const char* read(const char* from, int lane) {
    const auto* values = reinterpret_cast<const float*>(from);
#pragma unroll
    for (int i = 0; i < TILES * 2; ++i) {
      const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      bias[i] = values[column];
      if (SLOPES) slope[i] = values[TILES * 8 + column];
    }
    return from + TILES * 8 * 4 * (SLOPES ? 2 : 1);
  }

  template <Activation ACT>
  DEVICE float activate(float x, int i) const {
    if (ACT == RELU) return fmaxf(x, 0.f);
    if (ACT == PRELU) return x > 0.f ? x : x * slope[SLOPES ? i : 0];
    if (ACT == TANH) return fast_tanh(x);
    if (ACT == SIGMOID) return 0.5f + 0.5f * fast_tanh(0.5f * x);
    return x;
  }
};

template <int TILES, bool SLOPES>
struct Epilogue<Int8, TILES, SLOPES> {
  int bias[TILES * 2], multiplier[TILES * 2], negative[TILES * 2], shift[TILES * 2];
  int zero_point, low, high;

  DEVICE const char* read(const char* from, int lane) {
    const auto* values = reinterpret_cast<const int*>(from);
#pragma unroll
    for (int i = 0; i < TILES * 2; ++i) {
      const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
      bias[i] = values[column];
      multiplier[i] = values[TILES * 8 + column];
      negative[i] = values[TILES * 16 + column];
      shift[i] = values[TILES * 24 + column];
    }
    zero_point = values[TILES * 32];
    low = values[TILES * 32 + 1];
    high = values[TILES * 32 + 2];
    return from + (TILES * 32 + 4) * 4;
  }

  template <bool WIDE>
  DEVICE int requantise(int sum, int i) const {
    const long long product = static_cast<long long>(sum) * (sum < 0 ? negative[i] : multiplier[i]);
    return min(max(round_shift<WIDE>(product, shift[i]) + zero_point, low), high);
  }
};
