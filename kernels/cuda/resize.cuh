// Resizing of chunked tensors: bilinear to any size, bilinear to twice the size, nearest by a whole factor, and the
// average of 2 x 2 pixels.
//
// A thread has one output pixel (or two, one above the other, when doubling) and a block a tile of 32 x ROWS of them;
// where they fall in the source is worked out once, then GROUP planes follow. Neighbouring outputs share sources, which
// L1 keeps; stores are whole lines.
//
// Positions are FP32: beyond 8192 pixels their error may exceed half a unit of an FP16 weight.
//
// Not measured yet.
#pragma once

#include "pointwise.cuh"

// This thread's output pixel (of a frame of `width` x `height` threads) and planes.
template <int PLANES, int ROWS, int GROUP>
struct Share {
  static constexpr int GROUPS = (PLANES + GROUP - 1) / GROUP;
  int column, row, first, last;

  DEVICE Share() {
    first = blockIdx.x % GROUPS * GROUP;
    last = GROUPS == 1 ? PLANES : min(first + GROUP, PLANES);
    column = blockIdx.x / GROUPS * WARP + threadIdx.x % WARP;
    row = blockIdx.y * ROWS + threadIdx.x / WARP;
  }
};

// The two source pixels that output pixel `index` lies between, and the weight of the second.
struct Blend {
  int low, high;
  float weight;
};

template <bool ALIGN_CORNERS>
DEVICE Blend blend(int index, int size, int output_size) {
  float position;
  if (ALIGN_CORNERS)
    position = output_size > 1 ? index * (static_cast<float>(size - 1) / static_cast<float>(output_size - 1)) : 0.f;
  else
    position = fmaxf((index + 0.5f) * (static_cast<float>(size) / static_cast<float>(output_size)) - 0.5f, 0.f);
  const int low = min(static_cast<int>(position), size - 1);
  return Blend{low, min(low + 1, size - 1), position - static_cast<float>(low)};
}

template <int CHANNELS, bool ALIGN_CORNERS, int ROWS, int GROUP, int UNROLL>
DEVICE void resize_bilinear(const char* input, char* output, int height, int width, int output_height,
                            int output_width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const Share<PLANES, ROWS, GROUP> share;
  if (share.column >= output_width || share.row >= output_height) return;
  const Blend x = blend<ALIGN_CORNERS>(share.column, width, output_width);
  const Blend y = blend<ALIGN_CORNERS>(share.row, height, output_height);
  const long long pixels = static_cast<long long>(height) * width;
  const long long output_pixels = static_cast<long long>(output_height) * output_width;
  const long long low_row = static_cast<long long>(y.low) * width, high_row = static_cast<long long>(y.high) * width;
  const long long corner[4] = {low_row + x.low, low_row + x.high, high_row + x.low, high_row + x.high};
  const float weight[4] = {(1.f - y.weight) * (1.f - x.weight), (1.f - y.weight) * x.weight,
                           y.weight * (1.f - x.weight), y.weight * x.weight};
  char* to = output + (static_cast<long long>(share.row) * output_width + share.column) * 16;
#pragma unroll UNROLL
  for (int plane = share.first; plane < share.last; ++plane) {
    const char* from = input + plane_offset(PLANES, plane, pixels);
    float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    uint4 chunk[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) chunk[i] = load_global16(from + corner[i] * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) accumulate(sum, chunk[i], weight[i]);
    clear_padding<CHANNELS>(sum, plane);
    store_global16(to + plane_offset(PLANES, plane, output_pixels), pack(sum));
  }
}

// Twice the size, corners not aligned: output rows 2 i + 1 and 2 i + 2 lie a quarter and three quarters between source
// rows i and i + 1, for i from -1, with the frame's edge repeated. A thread makes both from the same four pixels.
template <int CHANNELS, int ROWS, int GROUP, int UNROLL>
DEVICE void resize_double(const char* input, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const Share<PLANES, ROWS, GROUP> share;
  if (share.column >= width * 2 || share.row > height) return;
  const int low = max(share.row - 1, 0), high = min(share.row, height - 1);
  const int left = max((share.column + 1) / 2 - 1, 0), right = min((share.column + 1) / 2, width - 1);
  const float right_weight = share.column % 2 ? 0.25f : 0.75f, left_weight = 1.f - right_weight;
  const long long pixels = static_cast<long long>(height) * width;
  const long long low_row = static_cast<long long>(low) * width, high_row = static_cast<long long>(high) * width;
  const long long upper = (share.row * 2ll - 1) * (width * 2ll) + share.column, lower = upper + width * 2ll;
#pragma unroll UNROLL
  for (int plane = share.first; plane < share.last; ++plane) {
    const char* from = input + plane_offset(PLANES, plane, pixels);
    char* to = output + plane_offset(PLANES, plane, pixels * 4);
    const uint4 chunk[4] = {
        load_global16(from + (low_row + left) * 16), load_global16(from + (low_row + right) * 16),
        load_global16(from + (high_row + left) * 16), load_global16(from + (high_row + right) * 16)};
    float above[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, below[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    accumulate(above, chunk[0], left_weight);
    accumulate(above, chunk[1], right_weight);
    accumulate(below, chunk[2], left_weight);
    accumulate(below, chunk[3], right_weight);
    clear_padding<CHANNELS>(above, plane);
    clear_padding<CHANNELS>(below, plane);
    float values[8];
    if (share.row > 0) {
#pragma unroll
      for (int c = 0; c < 8; ++c) values[c] = 0.75f * above[c] + 0.25f * below[c];
      store_global16(to + upper * 16, pack(values));
    }
    if (share.row < height) {
#pragma unroll
      for (int c = 0; c < 8; ++c) values[c] = 0.25f * above[c] + 0.75f * below[c];
      store_global16(to + lower * 16, pack(values));
    }
  }
}

// Every pixel FACTOR x FACTOR times.
template <int CHANNELS, int FACTOR, int ROWS, int GROUP, int UNROLL>
DEVICE void resize_nearest(const char* input, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const Share<PLANES, ROWS, GROUP> share;
  if (share.column >= width * FACTOR || share.row >= height * FACTOR) return;
  const long long pixels = static_cast<long long>(height) * width;
  const char* from = input + (static_cast<long long>(share.row / FACTOR) * width + share.column / FACTOR) * 16;
  char* to = output + (static_cast<long long>(share.row) * (width * FACTOR) + share.column) * 16;
#pragma unroll UNROLL
  for (int plane = share.first; plane < share.last; ++plane) {
    float values[8];
    unpack(load_global16(from + plane_offset(PLANES, plane, pixels)), values);
    clear_padding<CHANNELS>(values, plane);
    store_global16(to + plane_offset(PLANES, plane, pixels * FACTOR * FACTOR), pack(values));
  }
}

// The mean of 2 x 2 pixels; the last row or column of an odd frame is left out.
template <int CHANNELS, int ROWS, int GROUP, int UNROLL>
DEVICE void resize_average(const char* input, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const Share<PLANES, ROWS, GROUP> share;
  const int output_height = height / 2, output_width = width / 2;
  if (share.column >= output_width || share.row >= output_height) return;
  const long long pixels = static_cast<long long>(height) * width;
  const long long output_pixels = static_cast<long long>(output_height) * output_width;
  const char* from = input + (share.row * 2ll * width + share.column * 2ll) * 16;
  char* to = output + (static_cast<long long>(share.row) * output_width + share.column) * 16;
#pragma unroll UNROLL
  for (int plane = share.first; plane < share.last; ++plane) {
    const char* upper = from + plane_offset(PLANES, plane, pixels);
    const char* lower = upper + width * 16ll;
    const uint4 chunk[4] = {load_global16(upper), load_global16(upper + 16), load_global16(lower),
                            load_global16(lower + 16)};
    float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int i = 0; i < 4; ++i) accumulate(sum, chunk[i], 0.25f);
    clear_padding<CHANNELS>(sum, plane);
    store_global16(to + plane_offset(PLANES, plane, output_pixels), pack(sum));
  }
}

// RAFT's convex up-sampling by 8: every fine pixel is a combination of the nine coarse pixels around its own, times
// `scale`, with weights from a softmax. Mask: chunked, channel k 64 + i 8 + j for neighbour k and fine pixel (i, j) of a
// coarse one; flow: chunked, zeros outside. Output: planar, 2 channels.
//
// A thread has a row of 8 fine pixels of a coarse one, which is a chunk of the mask per neighbour.
template <int THREADS>
DEVICE void upsample_convex(const char* mask, const char* flow, char* output, float scale, int height, int width) {
  constexpr int PLANES = 72, NEIGHBOURS = 9;
  const int i = blockIdx.y;
  const long long pixels = static_cast<long long>(height) * width;
  const long long pixel = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  const int row = static_cast<int>(pixel / width), column = static_cast<int>(pixel % width);
  float weights[NEIGHBOURS][8], most[8], total[8], sums[2][8];
#pragma unroll
  for (int k = 0; k < NEIGHBOURS; ++k)
    unpack(load_global16(mask + plane_offset(PLANES, k * 8 + i, pixels) + pixel * 16), weights[k]);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    most[j] = weights[0][j];
    total[j] = sums[0][j] = sums[1][j] = 0.f;
#pragma unroll
    for (int k = 1; k < NEIGHBOURS; ++k) most[j] = fmaxf(most[j], weights[k][j]);
  }
#pragma unroll
  for (int k = 0; k < NEIGHBOURS; ++k) {
    const int y = row + k / 3 - 1, x = column + k % 3 - 1;
    const bool inside = y >= 0 && y < height && x >= 0 && x < width;
    const long long neighbour = static_cast<long long>(y) * width + x;
    float near[2] = {0.f, 0.f};
    if (inside) {
      near[0] = read_flow<false, true>(flow, 0, neighbour, pixels) * scale;
      near[1] = read_flow<false, true>(flow, 1, neighbour, pixels) * scale;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float weight = fast_exp(weights[k][j] - most[j]);
      total[j] += weight;
      sums[0][j] += weight * near[0];
      sums[1][j] += weight * near[1];
    }
  }
#pragma unroll
  for (int axis = 0; axis < 2; ++axis) {
    float values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = sums[axis][j] / total[j];
    const long long line = (blockIdx.z * 2ll + axis) * height * 8 + row * 8 + i;
    store_global16(output + (line * width + column) * 16, pack(values));
  }
}
