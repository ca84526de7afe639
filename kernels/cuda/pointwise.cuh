// Operators on chunked tensors that need no neighbours, or few: element-wise chains (whose text is written by
// kernels/chain.py), layer normalisation over channels, global average, depthwise 3x3 convolution, planar to chunked and
// back.
//
// All of these are bound by memory traffic, so each tensor is read once and written once, 16 bytes per thread, 32
// neighbouring pixels per warp, several loads in flight; everything between is FP32 in registers. A block works on one
// plane, so that a channel's parameters are the same for all its threads. The unused channels of the last chunk are
// written as zeros. Outputs must not overlap inputs.
//
// Not measured yet.
#pragma once

#include "lanes.cuh"

// Chunks

DEVICE void unpack(const uint4& chunk, float (&to)[8]) {
  const unsigned words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = half_to_float(static_cast<unsigned short>(words[i]));
    to[2 * i + 1] = half_to_float(static_cast<unsigned short>(words[i] >> 16));
  }
}

DEVICE uint4 pack(const float (&from)[8]) {
  return uint4{pack_halves(from[0], from[1]), pack_halves(from[2], from[3]), pack_halves(from[4], from[5]),
               pack_halves(from[6], from[7])};
}

// to += weight * chunk
DEVICE void accumulate(float (&to)[8], const uint4& chunk, float weight) {
  float values[8];
  unpack(chunk, values);
#pragma unroll
  for (int c = 0; c < 8; ++c) to[c] += weight * values[c];
}

// Sets the values of a plane beyond the tensor's channels to zero.
template <int CHANNELS>
DEVICE void clear_padding(float (&values)[8], int plane) {
  if (CHANNELS % 8 != 0 && plane == CHANNELS / 8) {
#pragma unroll
    for (int c = CHANNELS % 8; c < 8; ++c) values[c] = 0.f;
  }
}

// Bytes from the beginning of a chunked tensor to a plane of this block's frame.
DEVICE long long plane_offset(int planes, int plane, long long pixels) {
  return (static_cast<long long>(blockIdx.z) * planes + plane) * pixels * 16;
}

// Value `index` of an FP32 (SINGLE) or FP16 array.
template <bool SINGLE>
DEVICE float read_value(const char* from, long long index) {
  if (SINGLE) return reinterpret_cast<const float*>(from)[index];
  return half_to_float(reinterpret_cast<const unsigned short*>(from)[index]);
}

// Component `axis` of a flow: planar [batch][2][pixels], or the first two channels of chunks [batch][pixels][8].
template <bool SINGLE, bool CHUNKED>
DEVICE float read_flow(const char* flow, int axis, long long pixel, long long pixels) {
  const long long planar = (blockIdx.z * 2ll + axis) * pixels + pixel;
  return read_value<SINGLE>(flow, CHUNKED ? (blockIdx.z * pixels + pixel) * 8 + axis : planar);
}

// Eight values of an FP32 array [...][8], in two loads.
DEVICE void read_channels(float (&to)[8], const char* from, int index) {
  struct alignas(16) Four { float values[4]; };
  const auto* fours = reinterpret_cast<const Four*>(from) + index * 2;
  const Four low = fours[0], high = fours[1];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    to[c] = low.values[c];
    to[4 + c] = high.values[c];
  }
}

// Functions of one value

DEVICE float leaky(float x, float slope) { return x > 0.f ? x : x * slope; }
DEVICE float fast_sigmoid(float x) { return 0.5f + 0.5f * fast_tanh(0.5f * x); }
DEVICE float fast_silu(float x) { return x * fast_sigmoid(x); }
DEVICE float gelu_erf(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678f)); }
DEVICE float gelu_tanh(float x) { return x * fast_sigmoid(1.5957691f * (x + 0.044715f * x * x * x)); }

// Layer normalisation over the channels of each pixel: (x - mean) / sqrt(variance + epsilon) * scale + shift.
//
// A block is PIXEL_WARPS x CHANNEL_WARPS warps. A lane is a pixel; the warps of one group of 32 pixels share its
// planes, hold them in registers, and meet in shared memory, once for the mean and once for the squares about it.
template <int CHANNELS, int PIXEL_WARPS, int CHANNEL_WARPS>
struct LayerNorm {
  static constexpr int PLANES = (CHANNELS + 7) / 8;
  static constexpr int HELD = (PLANES + CHANNEL_WARPS - 1) / CHANNEL_WARPS;
  static constexpr int THREADS = PIXEL_WARPS * CHANNEL_WARPS * WARP;

  // The sum over the warps that share a pixel, the same in all of them.
  static DEVICE float total(float mine, float* meeting, int group, int member, int lane) {
    if (CHANNEL_WARPS == 1) return mine;
    float* of_pixel = meeting + group * CHANNEL_WARPS * WARP + lane;
    of_pixel[member * WARP] = mine;
    barrier(0, THREADS);
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < CHANNEL_WARPS; ++i) sum += of_pixel[i * WARP];
    return sum;
  }

  static DEVICE void run(const char* input, char* output, const char* parameters, float epsilon, int height,
                         int width) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int group = warp / CHANNEL_WARPS, member = warp % CHANNEL_WARPS;
    const long long pixels = static_cast<long long>(height) * width;
    const long long pixel = (static_cast<long long>(blockIdx.x) * PIXEL_WARPS + group) * WARP + lane;
    const bool inside = pixel < pixels;
    uint4 held[HELD];
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int plane = i * CHANNEL_WARPS + member;
      held[i] = uint4{0u, 0u, 0u, 0u};
      if (inside && plane < PLANES) held[i] = load_global16(input + plane_offset(PLANES, plane, pixels) + pixel * 16);
    }
    auto* meeting = reinterpret_cast<float*>(shared_memory());
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      float values[8];
      unpack(held[i], values);
      clear_padding<CHANNELS>(values, i * CHANNEL_WARPS + member);
#pragma unroll
      for (int c = 0; c < 8; ++c) sum += values[c];
    }
    const float mean = total(sum, meeting, group, member, lane) * (1.f / CHANNELS);
    float squares = 0.f;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int plane = i * CHANNEL_WARPS + member;
      float values[8];
      unpack(held[i], values);
#pragma unroll
      for (int c = 0; c < 8; ++c) values[c] = plane < PLANES ? values[c] - mean : 0.f;
      clear_padding<CHANNELS>(values, plane);
#pragma unroll
      for (int c = 0; c < 8; ++c) squares += values[c] * values[c];
    }
    // The second sums lie beside the first, which others may still be reading.
    const float variance =
        total(squares, meeting + PIXEL_WARPS * CHANNEL_WARPS * WARP, group, member, lane) * (1.f / CHANNELS);
    const float inverse = 1.f / sqrtf(variance + epsilon);
    if (!inside) return;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
      const int plane = i * CHANNEL_WARPS + member;
      if (plane < PLANES) {
        float values[8], scale[8], shift[8];
        unpack(held[i], values);
        read_channels(scale, parameters, plane);
        read_channels(shift, parameters, PLANES + plane);
#pragma unroll
        for (int c = 0; c < 8; ++c) values[c] = (values[c] - mean) * inverse * scale[c] + shift[c];
        clear_padding<CHANNELS>(values, plane);
        store_global16(output + plane_offset(PLANES, plane, pixels) + pixel * 16, pack(values));
      }
    }
  }
};

// Global average, first half: the sums of a plane over each of SEGMENTS equal parts of the frame, in an order that
// depends on nothing but the sizes. Sums are FP32 [batch][planes][SEGMENTS][8].
template <int PLANES, int SEGMENTS, int THREADS>
DEVICE void sum_segments(const char* input, char* sums, int height, int width) {
  static_assert((THREADS & (THREADS - 1)) == 0, "the sums of the threads are added in pairs");
  const int plane = blockIdx.y, segment = blockIdx.x, thread = threadIdx.x;
  const long long pixels = static_cast<long long>(height) * width;
  const long long begin = pixels * segment / SEGMENTS, end = pixels * (segment + 1) / SEGMENTS;
  const char* from = input + plane_offset(PLANES, plane, pixels);
  float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
  for (long long pixel = begin + thread; pixel < end; pixel += THREADS)
    accumulate(sum, load_global16(from + pixel * 16), 1.f);
  auto* meeting = reinterpret_cast<float*>(shared_memory());  // [8][THREADS]
#pragma unroll
  for (int c = 0; c < 8; ++c) meeting[c * THREADS + thread] = sum[c];
#pragma unroll
  for (int half = THREADS / 2; half >= 1; half /= 2) {
    barrier(0, THREADS);
    if (thread < half) {
#pragma unroll
      for (int c = 0; c < 8; ++c) meeting[c * THREADS + thread] += meeting[c * THREADS + thread + half];
    }
  }
  barrier(0, THREADS);
  const long long place = (static_cast<long long>(blockIdx.z) * PLANES + plane) * SEGMENTS + segment;
  if (thread < 8) reinterpret_cast<float*>(sums)[place * 8 + thread] = meeting[thread * THREADS];
}

// Second half: a thread adds a channel's segments. The result is a chunked tensor of 1 x 1 pixels.
template <int CHANNELS, int SEGMENTS, int THREADS>
DEVICE void average_segments(const char* sums, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const int channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= PLANES * 8) return;
  const long long plane = static_cast<long long>(blockIdx.z) * PLANES + channel / 8;
  const auto* from = reinterpret_cast<const float*>(sums) + plane * SEGMENTS * 8 + channel % 8;
  float sum = 0.f;
#pragma unroll 8
  for (int segment = 0; segment < SEGMENTS; ++segment) sum += from[segment * 8];
  const float mean = sum / (static_cast<float>(height) * static_cast<float>(width));
  reinterpret_cast<unsigned short*>(output)[plane * 8 + channel % 8] = float_to_half(channel < CHANNELS ? mean : 0.f);
}

// Depthwise 3x3 convolution with zeros around the frame, bias and activation. GATE: the result is the activation of the
// first half of the channels times the second half, and half as many channels.
//
// A warp has 32 columns of one plane (or, gated, of two) and marches down ROWS rows; a row that is read adds to three
// rows of sums. The pixels of the next row are on their way while one is added; neighbours come from L1. The 72 weights
// of a plane stay in registers; those of two do not fit, and are read from shared memory, one address a warp.
// Parameters: FP32 [planes][10][8], the nine taps and then the bias.
template <int CHANNELS, int WARPS, int ROWS, bool GATE, class Activation>
DEVICE void depthwise(const char* input, char* output, const char* parameters, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8, HALVES = GATE ? 2 : 1, OUTPUT_PLANES = PLANES / HALVES, BIAS = 9;
  const int plane = blockIdx.x % OUTPUT_PLANES;
  const int column = blockIdx.x / OUTPUT_PLANES * WARP + threadIdx.x % WARP;
  const int top = (blockIdx.y * WARPS + threadIdx.x / WARP) * ROWS;
  float kept[GATE ? 1 : 10][8];
  if (GATE) {
    for (int i = threadIdx.x; i < HALVES * 80; i += WARPS * WARP)
      reinterpret_cast<float*>(shared_memory())[i] =
          reinterpret_cast<const float*>(parameters)[(i / 80 * OUTPUT_PLANES + plane) * 80 + i % 80];
    barrier(0, WARPS * WARP);
  } else {
#pragma unroll
    for (int tap = 0; tap < 10; ++tap) read_channels(kept[GATE ? 0 : tap], parameters, plane * 10 + tap);
  }
  if (column >= width || top >= height) return;
  auto read_tap = [&](float (&to)[8], int half, int tap) {
    if (GATE) {
      read_channels(to, shared_memory(), half * 10 + tap);
    } else {
#pragma unroll
      for (int c = 0; c < 8; ++c) to[c] = kept[GATE ? 0 : tap][c];
    }
  };

  const long long pixels = static_cast<long long>(height) * width;
  char* to = output + plane_offset(OUTPUT_PLANES, plane, pixels);
  uint4 next[HALVES][3];
  auto load_row = [&](int row) {
#pragma unroll
    for (int half = 0; half < HALVES; ++half)
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) {
        const int x = column + dx - 1;
        const long long offset =
            plane_offset(PLANES, half * OUTPUT_PLANES + plane, pixels) + (static_cast<long long>(row) * width + x) * 16;
        next[half][dx] = uint4{0u, 0u, 0u, 0u};
        if (row >= 0 && row < height && x >= 0 && x < width) next[half][dx] = load_global16(input + offset);
      }
  };
  float sums[HALVES][3][8];
#pragma unroll
  for (int half = 0; half < HALVES; ++half)
#pragma unroll
    for (int y = 0; y < 3; ++y) read_tap(sums[half][y], half, BIAS);
  load_row(top - 1);
#pragma unroll
  for (int y = -1; y <= ROWS; ++y) {
    uint4 chunks[HALVES][3];
#pragma unroll
    for (int half = 0; half < HALVES; ++half)
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) chunks[half][dx] = next[half][dx];
    if (y < ROWS) load_row(top + y + 1);
#pragma unroll
    for (int half = 0; half < HALVES; ++half)
#pragma unroll
      for (int dx = 0; dx < 3; ++dx) {
        float values[8];
        unpack(chunks[half][dx], values);
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) {  // row y is the last row of the window of row y - 1
          float weights[8];
          read_tap(weights, half, dy * 3 + dx);
#pragma unroll
          for (int c = 0; c < 8; ++c) sums[half][2 - dy][c] += weights[c] * values[c];
        }
      }
    const int row = top + y - 1;
    if (y >= 1 && row < height) {
      float values[8];
#pragma unroll
      for (int c = 0; c < 8; ++c)
        values[c] = Activation::apply(sums[0][0][c]) * (GATE ? sums[HALVES - 1][0][c] : 1.f);
      clear_padding<CHANNELS / HALVES>(values, plane);
      store_global16(to + (static_cast<long long>(row) * width + column) * 16, pack(values));
    }
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        sums[half][0][c] = sums[half][1][c];
        sums[half][1][c] = sums[half][2][c];
      }
      read_tap(sums[half][2], half, BIAS);
    }
  }
}

// NCHW to chunked. A warp's loads of one channel are neighbours, whatever the frame's width, and 8 ITEMS are in flight.
template <int CHANNELS, bool SINGLE, int ITEMS, int THREADS>
DEVICE void planar_to_chunked(const char* input, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const int plane = blockIdx.y;
  const long long pixels = static_cast<long long>(height) * width;
  const long long first = static_cast<long long>(blockIdx.x) * (ITEMS * THREADS) + threadIdx.x;
  const long long planar = (static_cast<long long>(blockIdx.z) * CHANNELS + plane * 8) * pixels;
  char* to = output + plane_offset(PLANES, plane, pixels);
  float values[ITEMS][8];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i)
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const long long pixel = first + i * THREADS;
      const bool inside = pixel < pixels && plane * 8 + c < CHANNELS;
      values[i][c] = inside ? read_value<SINGLE>(input, planar + c * pixels + pixel) : 0.f;
    }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const long long pixel = first + i * THREADS;
    if (pixel < pixels) store_global16(to + pixel * 16, pack(values[i]));
  }
}

// Chunked to NCHW.
template <int CHANNELS, bool SINGLE, int ITEMS, int THREADS>
DEVICE void chunked_to_planar(const char* input, char* output, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const int plane = blockIdx.y;
  const long long pixels = static_cast<long long>(height) * width;
  const long long first = static_cast<long long>(blockIdx.x) * (ITEMS * THREADS) + threadIdx.x;
  const long long planar = (static_cast<long long>(blockIdx.z) * CHANNELS + plane * 8) * pixels;
  const char* from = input + plane_offset(PLANES, plane, pixels);
  uint4 chunks[ITEMS];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const long long pixel = first + i * THREADS;
    if (pixel < pixels) chunks[i] = load_global16(from + pixel * 16);
  }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const long long pixel = first + i * THREADS;
    if (pixel < pixels) {
      float values[8];
      unpack(chunks[i], values);
#pragma unroll
      for (int c = 0; c < 8; ++c)
        if (plane * 8 + c < CHANNELS) {
          const long long index = planar + c * pixels + pixel;
          if (SINGLE)
            reinterpret_cast<float*>(output)[index] = values[c];
          else
            reinterpret_cast<unsigned short*>(output)[index] = float_to_half(values[c]);
        }
    }
  }
}

// The sums and sums of squares of a plane over each of SEGMENTS equal parts of the frame, less the value of the frame's
// first pixel, so that a large mean does not swallow the variance. FP32 [batch][planes][SEGMENTS][16]: 8 sums, 8 squares.
template <int PLANES, int SEGMENTS, int THREADS>
DEVICE void sum_moments(const char* input, char* sums, int height, int width) {
  static_assert((THREADS & (THREADS - 1)) == 0, "the sums of the threads are added in pairs");
  const int plane = blockIdx.y, segment = blockIdx.x, thread = threadIdx.x;
  const long long pixels = static_cast<long long>(height) * width;
  const long long begin = pixels * segment / SEGMENTS, end = pixels * (segment + 1) / SEGMENTS;
  const char* from = input + plane_offset(PLANES, plane, pixels);
  float pivot[8], sum[16];
  unpack(load_global16(from), pivot);
#pragma unroll
  for (int c = 0; c < 16; ++c) sum[c] = 0.f;
#pragma unroll 4
  for (long long pixel = begin + thread; pixel < end; pixel += THREADS) {
    float values[8];
    unpack(load_global16(from + pixel * 16), values);
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const float centred = values[c] - pivot[c];
      sum[c] += centred;
      sum[8 + c] += centred * centred;
    }
  }
  auto* meeting = reinterpret_cast<float*>(shared_memory());  // [16][THREADS]
#pragma unroll
  for (int c = 0; c < 16; ++c) meeting[c * THREADS + thread] = sum[c];
#pragma unroll
  for (int half = THREADS / 2; half >= 1; half /= 2) {
    barrier(0, THREADS);
    if (thread < half) {
#pragma unroll
      for (int c = 0; c < 16; ++c) meeting[c * THREADS + thread] += meeting[c * THREADS + thread + half];
    }
  }
  barrier(0, THREADS);
  const long long place = (static_cast<long long>(blockIdx.z) * PLANES + plane) * SEGMENTS + segment;
  if (thread < 16) reinterpret_cast<float*>(sums)[place * 16 + thread] = meeting[thread * THREADS];
}

// (x - mean) / sqrt(variance + epsilon) of every channel over the frame, from the sums of sum_moments; then a ReLU if RELU.
template <int CHANNELS, int SEGMENTS, bool RELU, int ITEMS, int THREADS>
DEVICE void instance_norm(const char* input, const char* sums, char* output, float epsilon, int height, int width) {
  constexpr int PLANES = (CHANNELS + 7) / 8;
  const int plane = blockIdx.y, thread = threadIdx.x;
  const long long pixels = static_cast<long long>(height) * width;
  const char* from = input + plane_offset(PLANES, plane, pixels);
  char* to = output + plane_offset(PLANES, plane, pixels);
  auto* moments = reinterpret_cast<float*>(shared_memory());  // [16]
  if (thread < 16) {
    const long long place = (static_cast<long long>(blockIdx.z) * PLANES + plane) * SEGMENTS * 16 + thread;
    float sum = 0.f;
#pragma unroll 8
    for (int segment = 0; segment < SEGMENTS; ++segment)
      sum += reinterpret_cast<const float*>(sums)[place + segment * 16];
    moments[thread] = sum / (static_cast<float>(height) * static_cast<float>(width));
  }
  barrier(0, THREADS);
  float mean[8], inverse[8];
  unpack(load_global16(from), mean);
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    const float moved = moments[c];
    mean[c] += moved;
    inverse[c] = 1.f / sqrtf(fmaxf(moments[8 + c] - moved * moved, 0.f) + epsilon);
  }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const long long pixel = (static_cast<long long>(blockIdx.x) * ITEMS + i) * THREADS + thread;
    if (pixel < pixels) {
      float values[8];
      unpack(load_global16(from + pixel * 16), values);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float value = (values[c] - mean[c]) * inverse[c];
        values[c] = RELU ? fmaxf(value, 0.f) : value;
      }
      clear_padding<CHANNELS>(values, plane);
      store_global16(to + pixel * 16, pack(values));
    }
  }
}

// A constant of the network, copied from the parameters, which hold it in its memory layout.
template <int PLANES, int THREADS>
DEVICE void copy_constant(char* output, const char* parameters, int height, int width) {
  const long long pixels = static_cast<long long>(height) * width;
  const long long pixel = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  const long long at = (blockIdx.y * pixels + pixel) * 16;
  if (pixel < pixels) store_global16(output + at, load_global16(parameters + at));
}
