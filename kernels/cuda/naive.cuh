// The definition of the kernels on chunked tensors, against which the fast ones are tested: one thread per output value,
// no tiles, no shared memory, exact functions.
#pragma once

#include "lanes.cuh"

// The output value of this thread, of the frame blockIdx.z of a chunked tensor.
struct Site {
  int channel, row, column;
  long long index;  // in halves from the beginning of the tensor
  bool inside;      // a thread may be beyond the tensor
};

DEVICE Site site_of(int channels, int height, int width) {
  const long long pixels = static_cast<long long>(height) * width, count = (channels + 7) / 8 * 8 * pixels;
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const long long pixel = i / 8 % pixels;
  return Site{static_cast<int>(i / 8 / pixels * 8 + i % 8), static_cast<int>(pixel / width),
              static_cast<int>(pixel % width), blockIdx.z * count + i, i < count};
}

// Stores a value, or zero where the channel only fills up a chunk.
DEVICE void store_site(char* output, const Site& site, int channels, float value) {
  reinterpret_cast<unsigned short*>(output)[site.index] = float_to_half(site.channel < channels ? value : 0.f);
}

// A value of frame blockIdx.z of a chunked tensor.
DEVICE float naive_read(const char* tensor, int channels, int channel, int row, int column, int height, int width) {
  const long long plane = static_cast<long long>(blockIdx.z) * ((channels + 7) / 8) + channel / 8;
  return half_to_float(
      reinterpret_cast<const unsigned short*>(tensor)[((plane * height + row) * width + column) * 8 + channel % 8]);
}

DEVICE float naive_read_outside(const char* tensor, int channels, int channel, int row, int column, int height,
                                int width) {
  if (row < 0 || row >= height || column < 0 || column >= width) return 0.f;
  return naive_read(tensor, channels, channel, row, column, height, width);
}

// A value of an FP32 (SINGLE) or FP16 array.
template <bool SINGLE>
DEVICE float naive_value(const char* from, long long index) {
  return SINGLE ? reinterpret_cast<const float*>(from)[index]
                : half_to_float(reinterpret_cast<const unsigned short*>(from)[index]);
}

// Component `axis` of a flow: planar, or the first channels of chunks.
template <bool SINGLE, bool CHUNKED>
DEVICE float naive_flow(const char* flow, int axis, long long pixel, long long pixels) {
  if (CHUNKED) return naive_value<SINGLE>(flow, (blockIdx.z * pixels + pixel) * 8 + axis);
  return naive_value<SINGLE>(flow, (blockIdx.z * 2ll + axis) * pixels + pixel);
}

DEVICE float naive_sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
DEVICE float naive_gelu_erf(float x) { return 0.5f * x * (1.f + erff(x / sqrtf(2.f))); }
DEVICE float naive_gelu_tanh(float x) { return 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

// Bilinear value at a position between pixels, neighbours outside the frame being zero.
DEVICE float naive_bilinear_value(const char* tensor, int channels, int channel, float y, float x, int height,
                                  int width) {
  const int row = static_cast<int>(floorf(y)), column = static_cast<int>(floorf(x));
  const float down = y - row, right = x - column;
  float sum = 0.f;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      sum += (i ? down : 1.f - down) * (j ? right : 1.f - right) *
             naive_read_outside(tensor, channels, channel, row + i, column + j, height, width);
  return sum;
}

template <int CHANNELS, bool BORDER, bool SINGLE, bool CHUNKED>
DEVICE void naive_warp(const char* features, const char* flow, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, height, width);
  if (!site.inside) return;
  const long long pixels = static_cast<long long>(height) * width;
  const long long pixel = static_cast<long long>(site.row) * width + site.column;
  float x = site.column + naive_flow<SINGLE, CHUNKED>(flow, 0, pixel, pixels);
  float y = site.row + naive_flow<SINGLE, CHUNKED>(flow, 1, pixel, pixels);
  if (BORDER) {
    x = x > 0.f ? x < width - 1 ? x : width - 1 : 0.f;  // NaN goes to 0
    y = y > 0.f ? y < height - 1 ? y : height - 1 : 0.f;
  }
  const bool near = x > -1.f && x < width && y > -1.f && y < height;  // NaN is not
  store_site(output, site, CHANNELS,
             near ? naive_bilinear_value(features, CHANNELS, site.channel, y, x, height, width) : 0.f);
}

template <int CHANNELS, int D>
DEVICE void naive_correlation(const char* first, const char* second, char* output, float slope, int height, int width) {
  constexpr int WINDOW = 2 * D + 1;
  const Site site = site_of(WINDOW * WINDOW, height, width);
  if (!site.inside) return;
  const int dy = site.channel / WINDOW - D, dx = site.channel % WINDOW - D;
  float sum = 0.f;
  for (int c = 0; c < CHANNELS; ++c)
    sum += naive_read(first, CHANNELS, c, site.row, site.column, height, width) *
           naive_read_outside(second, CHANNELS, c, site.row + dy, site.column + dx, height, width);
  const float mean = sum / CHANNELS;
  store_site(output, site, WINDOW * WINDOW, mean > 0.f ? mean : slope * mean);
}

template <int LEVELS, int R, bool SINGLE, bool ABSOLUTE, bool CHUNKED>
DEVICE void naive_window(const char* const (&levels)[LEVELS], const char* coordinates, char* output, int height,
                         int width) {
  constexpr int WINDOW = 2 * R + 1, CHANNELS = LEVELS * WINDOW * WINDOW;
  const Site site = site_of(CHANNELS, height, width);
  if (!site.inside) return;
  const long long pixels = static_cast<long long>(height) * width;
  const long long pixel = static_cast<long long>(site.row) * width + site.column;
  const int level = site.channel / (WINDOW * WINDOW), dx = site.channel / WINDOW % WINDOW - R;
  const int dy = site.channel % WINDOW - R;
  float sum = 0.f;
  if (site.channel < CHANNELS) {
    const int rows = height >> level, columns = width >> level;
    const float own_x = ABSOLUTE ? 0.f : site.column, own_y = ABSOLUTE ? 0.f : site.row;
    const float x = (own_x + naive_flow<SINGLE, CHUNKED>(coordinates, 0, pixel, pixels)) / (1 << level) + dx;
    const float y = (own_y + naive_flow<SINGLE, CHUNKED>(coordinates, 1, pixel, pixels)) / (1 << level) + dy;
    const auto* maps = reinterpret_cast<const unsigned short*>(levels[level]);
    const unsigned short* map = maps + (blockIdx.z * pixels + pixel) * rows * columns;
    if (x > -1.f && x < columns && y > -1.f && y < rows) {
      const int row = static_cast<int>(floorf(y)), column = static_cast<int>(floorf(x));
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          if (row + i >= 0 && row + i < rows && column + j >= 0 && column + j < columns)
            sum += (i ? y - row : row + 1 - y) * (j ? x - column : column + 1 - x) *
                   half_to_float(map[(row + i) * columns + column + j]);
    }
  }
  store_site(output, site, CHANNELS, sum);
}

// The source position of an output pixel.
template <bool ALIGN_CORNERS>
DEVICE float naive_position(int index, int size, int output_size) {
  if (ALIGN_CORNERS) return output_size > 1 ? index * static_cast<float>(size - 1) / (output_size - 1) : 0.f;
  const float position = (index + 0.5f) * size / output_size - 0.5f;
  return position < 0.f ? 0.f : position > size - 1 ? size - 1 : position;
}

template <int CHANNELS, bool ALIGN_CORNERS>
DEVICE void naive_resize_bilinear(const char* input, char* output, int height, int width, int output_height,
                                  int output_width) {
  const Site site = site_of(CHANNELS, output_height, output_width);
  if (!site.inside) return;
  const float y = naive_position<ALIGN_CORNERS>(site.row, height, output_height);
  const float x = naive_position<ALIGN_CORNERS>(site.column, width, output_width);
  store_site(output, site, CHANNELS, naive_bilinear_value(input, CHANNELS, site.channel, y, x, height, width));
}

template <int CHANNELS, int FACTOR>
DEVICE void naive_resize_nearest(const char* input, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, height * FACTOR, width * FACTOR);
  if (!site.inside) return;
  store_site(output, site, CHANNELS,
             naive_read(input, CHANNELS, site.channel, site.row / FACTOR, site.column / FACTOR, height, width));
}

template <int CHANNELS>
DEVICE void naive_resize_average(const char* input, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, height / 2, width / 2);
  if (!site.inside) return;
  float sum = 0.f;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      sum += naive_read(input, CHANNELS, site.channel, site.row * 2 + i, site.column * 2 + j, height, width);
  store_site(output, site, CHANNELS, sum / 4.f);
}

template <int CHANNELS>
DEVICE void naive_layer_norm(const char* input, char* output, const char* parameters, float epsilon, int height,
                             int width) {
  const Site site = site_of(CHANNELS, height, width);
  if (!site.inside) return;
  float sum = 0.f, squares = 0.f;
  for (int c = 0; c < CHANNELS; ++c) sum += naive_read(input, CHANNELS, c, site.row, site.column, height, width);
  const float mean = sum / CHANNELS;
  for (int c = 0; c < CHANNELS; ++c) {
    const float away = naive_read(input, CHANNELS, c, site.row, site.column, height, width) - mean;
    squares += away * away;
  }
  const float value = naive_read(input, CHANNELS, site.channel, site.row, site.column, height, width);
  const auto* scale = reinterpret_cast<const float*>(parameters);
  const float* shift = scale + (CHANNELS + 7) / 8 * 8;
  store_site(output, site, CHANNELS,
             (value - mean) / sqrtf(squares / CHANNELS + epsilon) * scale[site.channel] + shift[site.channel]);
}

// FP32 [batch][planes][SEGMENTS][8], one thread each.
template <int PLANES, int SEGMENTS>
DEVICE void naive_sum_segments(const char* input, char* sums, int height, int width) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= PLANES * SEGMENTS * 8) return;
  const int plane = i / (SEGMENTS * 8), segment = i / 8 % SEGMENTS;
  const long long pixels = static_cast<long long>(height) * width;
  float sum = 0.f;
  for (long long p = pixels * segment / SEGMENTS; p < pixels * (segment + 1) / SEGMENTS; ++p)
    sum += naive_read(input, PLANES * 8, plane * 8 + i % 8, static_cast<int>(p / width), static_cast<int>(p % width),
                      height, width);
  reinterpret_cast<float*>(sums)[static_cast<long long>(blockIdx.z) * PLANES * SEGMENTS * 8 + i] = sum;
}

template <int CHANNELS, int SEGMENTS>
DEVICE void naive_average_segments(const char* sums, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, 1, 1);
  if (!site.inside) return;
  const auto* from = reinterpret_cast<const float*>(sums) + site.index / 8 * SEGMENTS * 8 + site.channel % 8;
  float sum = 0.f;
  for (int segment = 0; segment < SEGMENTS; ++segment) sum += from[segment * 8];
  store_site(output, site, CHANNELS, sum / height / width);
}

DEVICE float naive_depthwise_sum(const char* input, const char* parameters, int channels, int channel, int row,
                                 int column, int height, int width) {
  const auto* weights = reinterpret_cast<const float*>(parameters) + channel / 8 * 80 + channel % 8;
  float sum = weights[72];
  for (int dy = 0; dy < 3; ++dy)
    for (int dx = 0; dx < 3; ++dx)
      sum += weights[(dy * 3 + dx) * 8] *
             naive_read_outside(input, channels, channel, row + dy - 1, column + dx - 1, height, width);
  return sum;
}

template <int CHANNELS, bool GATE, class Activation>
DEVICE void naive_depthwise(const char* input, char* output, const char* parameters, int height, int width) {
  constexpr int OUTPUT_CHANNELS = GATE ? CHANNELS / 2 : CHANNELS;
  const Site site = site_of(OUTPUT_CHANNELS, height, width);
  if (!site.inside) return;
  float value = Activation::apply(
      naive_depthwise_sum(input, parameters, CHANNELS, site.channel, site.row, site.column, height, width));
  if (GATE)
    value *= naive_depthwise_sum(input, parameters, CHANNELS, OUTPUT_CHANNELS + site.channel, site.row, site.column,
                                 height, width);
  store_site(output, site, OUTPUT_CHANNELS, value);
}

template <int CHANNELS, bool SINGLE>
DEVICE void naive_planar_to_chunked(const char* input, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, height, width);
  if (!site.inside) return;
  const long long row = (static_cast<long long>(blockIdx.z) * CHANNELS + site.channel) * height + site.row;
  store_site(output, site, CHANNELS,
             site.channel < CHANNELS ? naive_value<SINGLE>(input, row * width + site.column) : 0.f);
}

template <int CHANNELS, bool SINGLE>
DEVICE void naive_chunked_to_planar(const char* input, char* output, int height, int width) {
  const Site site = site_of(CHANNELS, height, width);
  if (!site.inside || site.channel >= CHANNELS) return;
  const long long row = (static_cast<long long>(blockIdx.z) * CHANNELS + site.channel) * height + site.row;
  const float value = naive_read(input, CHANNELS, site.channel, site.row, site.column, height, width);
  if (SINGLE)
    reinterpret_cast<float*>(output)[row * width + site.column] = value;
  else
    reinterpret_cast<unsigned short*>(output)[row * width + site.column] = float_to_half(value);
}
