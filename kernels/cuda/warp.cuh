// Backward warp: output (x, y) = features at (x + u(x, y), y + v(x, y)), bilinear.
//
// A thread has one pixel: its four corners and weights are worked out once, then its planes follow one another, four
// gathers of 16 bytes each, UNROLL planes in flight. A block is a tile of 32 x ROWS pixels, since neighbours mostly
// read neighbours: the gathers meet in L1. Planes beyond GROUP go to other blocks.
//
// Positions outside the frame: zeros (each corner that is outside counts as zero) or border (the position is moved to
// the nearest point of the frame), as torch's grid_sample with align_corners=True. A displacement that is not a number
// counts as minus infinity: with zeros the result is zero, with border that of column (or row) 0.
//
// Not measured yet.
#pragma once

#include "pointwise.cuh"

// The two pixels of a line around a position, and their weights.
struct Between {
  int low, high;
  float low_weight, high_weight;
  bool low_inside, high_inside;
};

template <bool BORDER>
DEVICE Between between(float position, int size) {
  // Of a number and a NaN, fmaxf and fminf return the number: every position becomes an index that an int holds.
  const float first = BORDER ? 0.f : -2.f, last = static_cast<float>(BORDER ? size - 1 : size);
  position = fminf(fmaxf(position, first), last);
  const float below = floorf(position);
  const int low = static_cast<int>(below);
  const float far = position - below;
  if (BORDER) return Between{low, min(low + 1, size - 1), 1.f - far, far, true, true};
  return Between{low, low + 1, 1.f - far, far, low >= 0 && low < size, low >= -1 && low + 1 < size};
}

template <int CHANNELS, bool BORDER, bool SINGLE, bool CHUNKED, int ROWS, int GROUP, int UNROLL>
DEVICE void warp_backward(const char* features, const char* flow, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8, GROUPS = (PLANES + GROUP - 1) / GROUP;
  const int first = blockIdx.x % GROUPS * GROUP;
  const int column = blockIdx.x / GROUPS * WARP + threadIdx.x % WARP;
  const int row = blockIdx.y * ROWS + threadIdx.x / WARP;
  if (column >= width || row >= height) return;
  const long long pixels = static_cast<long long>(height) * width, pixel = static_cast<long long>(row) * width + column;
  const Between x = between<BORDER>(column + read_flow<SINGLE, CHUNKED>(flow, 0, pixel, pixels), width);
  const Between y = between<BORDER>(row + read_flow<SINGLE, CHUNKED>(flow, 1, pixel, pixels), height);
  const long long low_row = static_cast<long long>(y.low) * width, high_row = static_cast<long long>(y.high) * width;
  const long long corner[4] = {low_row + x.low, low_row + x.high, high_row + x.low, high_row + x.high};
  const float weight[4] = {y.low_weight * x.low_weight, y.low_weight * x.high_weight, y.high_weight * x.low_weight,
                           y.high_weight * x.high_weight};
  const bool inside[4] = {y.low_inside && x.low_inside, y.low_inside && x.high_inside, y.high_inside && x.low_inside,
                          y.high_inside && x.high_inside};
  const int last = GROUPS == 1 ? PLANES : min(first + GROUP, PLANES);
#pragma unroll UNROLL
  for (int plane = first; plane < last; ++plane) {
    const long long offset = plane_offset(PLANES, plane, pixels);
    float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    uint4 chunk[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      chunk[i] = uint4{0u, 0u, 0u, 0u};
      if (inside[i]) chunk[i] = load_global16(features + offset + corner[i] * 16);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) accumulate(sum, chunk[i], weight[i]);
    clear_padding<CHANNELS>(sum, plane);
    store_global16(output + offset + pixel * 16, pack(sum));
  }
}
