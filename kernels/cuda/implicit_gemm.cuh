// A convolution of any width as a matrix product whose left matrix is never built: pixels x (taps x channels).
//
// A block computes a patch of output pixels for some output channels. Channels come in slabs of a few chunks: the patch
// of the input with its halo and the slab's weights are copied to shared memory, several slabs ahead, and every tap
// reads the same patch at another offset. So the input is copied once per slab and not once per tap.
//
// Layout. Shared memory holds planes of 16-byte chunks, as in stack.cuh: eight neighbouring pixels are 128 contiguous
// bytes, and so are a chunk of eight output channels' weights. Both are read by ldmatrix without conflicts (stride 2
// reads every other pixel and pays two accesses).
//
// Not measured yet against one launch per tap or a materialised matrix.
#pragma once

#include "lanes.cuh"
#include "requantise.cuh"
#include "stack.cuh"

constexpr int MAX_SOURCES = 16;

// The tensors whose channels the weights are for, in order.
struct Sources {
  const char* base[MAX_SOURCES];
  int planes[MAX_SOURCES];
  int padding[MAX_SOURCES];  // value outside the frame
};

struct Frame {
  int height, width, output_height, output_width;
};

// ROWS x TILES tiles of 16 pixels, COLUMNS tiles of 8 output channels a block; SLAB chunks of channels a stage.
template <class E, int KH, int KW, int STRIDE, int DILATION, int TOP, int LEFT, int SOURCES, int SLABS, int SLAB, int ROWS,
          int TILES, int COLUMNS, int WARPS_M, int WARPS_N, int STAGES, Activation ACT, Operand OPERAND, bool CLIP,
          bool WIDE_SHIFT, bool TABLE>
struct ImplicitGemm {
  using Sum = typename E::Sum;
  static constexpr int THREADS = WARPS_M * WARPS_N * WARP;
  static constexpr int IN_ROWS = (ROWS - 1) * STRIDE + (KH - 1) * DILATION + 1;
  static constexpr int IN_COLUMNS = (TILES * 16 - 1) * STRIDE + (KW - 1) * DILATION + 1;
  static constexpr int PLANE_BYTES = IN_ROWS * IN_COLUMNS * 16;
  static constexpr int INPUT_BYTES = SLAB * PLANE_BYTES;
  static constexpr int TAP_BYTES = SLAB * COLUMNS * 8 * 16;
  static constexpr int WEIGHT_BYTES = KH * KW * TAP_BYTES;
  static constexpr int STAGE_BYTES = INPUT_BYTES + WEIGHT_BYTES;
  static constexpr int MT = ROWS * TILES / WARPS_M, NT = COLUMNS / WARPS_N;  // tiles of a warp
  static constexpr bool PAIRED = NT % 2 == 0;
  static_assert(ROWS * TILES % WARPS_M == 0 && COLUMNS % WARPS_N == 0 && SLAB % 2 == 0, "a warp has whole tiles");

  Sum sums[MT][NT][4];

  // Copies slab `slab` of the input patch to stage `stage`.
  static DEVICE void fetch_input(const Sources& sources, const Frame& frame, int slab, int stage, int top, int left) {
    char* to = shared_memory() + stage * STAGE_BYTES;
    const int thread = threadIdx.x;
    for (int i = thread; i < SLAB * IN_ROWS * IN_COLUMNS; i += THREADS) {
      const int column = i % IN_COLUMNS, rest = i / IN_COLUMNS, row = rest % IN_ROWS;
      int plane = slab * SLAB + rest / IN_ROWS, source = 0;
#pragma unroll
      for (int s = 0; s + 1 < SOURCES; ++s)
        if (source == s && plane >= sources.planes[s]) {
          plane -= sources.planes[s];
          source = s + 1;
        }
      const char* base = sources.base[0];
      int planes = sources.planes[0], padding = sources.padding[0];
#pragma unroll
      for (int s = 1; s < SOURCES; ++s)
        if (source == s) {
          base = sources.base[s];
          planes = sources.planes[s];
          padding = sources.padding[s];
        }
      const int y = top + row, x = left + column;
      const bool real = plane < planes;  // the last slab may have fewer chunks
      const bool inside = real && y >= 0 && y < frame.height && x >= 0 && x < frame.width;
      const long long index = (static_cast<long long>(plane) * frame.height + y) * frame.width + x;
      if (inside || !real || padding == 0) {
        copy_chunk(to + i * 16, base + (inside ? index * 16 : 0), inside);
      } else {
        const unsigned word = static_cast<unsigned>(padding & 0xff) * 0x01010101u;
        *reinterpret_cast<uint4*>(to + i * 16) = uint4{word, word, word, word};
      }
    }
  }

  // Copies slab `slab` of the input patch and of the weights to stage `stage`.
  static DEVICE void fetch(const Sources& sources, const Frame& frame, const char* weights, int slab, int stage, int top,
                           int left) {
    fetch_input(sources, frame, slab, stage, top, left);
    char* to = shared_memory() + stage * STAGE_BYTES + INPUT_BYTES;
    const char* from = weights + static_cast<long long>(slab) * WEIGHT_BYTES;
    for (int i = threadIdx.x; i < WEIGHT_BYTES / 16; i += THREADS) copy_chunk(to + i * 16, from + i * 16, true);
  }

  // Adds the products of a stage.
  DEVICE void multiply_stage(int stage, int warp_m, int warp_n, int lane) {
    const char* input = shared_memory() + stage * STAGE_BYTES;
    const char* weights = input + INPUT_BYTES + warp_n * NT * 8 * 16;
    // A: lanes 0 to 15 address pixels of the first chunk, 16 to 31 of the second.
    const char* pixel = input + lane / 16 * PLANE_BYTES + lane % 16 * STRIDE * 16;
    // B: lanes 0 to 7 and 8 to 15 address the chunks of one tile of channels, the others those of the next.
    const char* column = weights + lane / 8 % 2 * (COLUMNS * 8 * 16) + (lane / 16 * 8 + lane % 8) * 16;
#pragma unroll
    for (int dy = 0; dy < KH; ++dy)
#pragma unroll 1
      for (int dx = 0; dx < KW; ++dx)
#pragma unroll
        for (int chunk = 0; chunk < SLAB; chunk += 2) {
          unsigned a[MT][4], b[(NT + 1) / 2][4];
#pragma unroll
          for (int n = 0; n < (NT + 1) / 2; ++n)
            load_matrices(b[n], n * 2 + 1 < NT || lane < 16
                                    ? column + (dy * KW + dx) * TAP_BYTES + chunk * (COLUMNS * 8 * 16) + n * 2 * 8 * 16
                                    : weights);
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            const int tile = warp_m * MT + m, row = tile / TILES * STRIDE + dy * DILATION;
            const int first = tile % TILES * 16 * STRIDE + dx * DILATION;
            load_matrices(a[m], pixel + chunk * PLANE_BYTES + (row * IN_COLUMNS + first) * 16);
          }
#pragma unroll
          for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int n = 0; n < NT; ++n) multiply(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
        }
  }

  // Calls store(pixel row, column, channel, value(s)...) through `Store` for every result of this warp.
  template <class Store>
  DEVICE void run(const Sources& sources, const Frame& frame, const char* parameters, int weights_at, int epilogue_at,
                  int epilogue_bytes, int table_at, int block_n, int block_x, int block_y, const char* other,
                  int other_plane, const int* mapped_at, float low, float high, const AddRule& add, Store store) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    const int row0 = block_y * ROWS, column0 = block_x * TILES * 16;
    const int top = row0 * STRIDE - TOP, left = column0 * STRIDE - LEFT;
    const char* weights = parameters + weights_at + static_cast<long long>(block_n) * SLABS * WEIGHT_BYTES;
    Epilogue<E, NT, ACT == PRELU> epilogue;
    epilogue.read(parameters + epilogue_at + (block_n * WARPS_N + warp_n) * epilogue_bytes, lane);
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int part = 0; part < 4; ++part) sums[m][n][part] = epilogue.bias[n * 2 + part % 2];
#pragma unroll
    for (int slab = 0; slab < STAGES - 1; ++slab) {
      if (slab < SLABS) fetch(sources, frame, weights, slab, slab, top, left);
      copy_commit();
    }
#pragma unroll 1
    for (int slab = 0; slab < SLABS; ++slab) {
      copy_wait<STAGES - 2>();
      barrier(0, THREADS);
      const int ahead = slab + STAGES - 1;
      if (ahead < SLABS) fetch(sources, frame, weights, ahead, ahead % STAGES, top, left);
      copy_commit();
      multiply_stage(slab % STAGES, warp_m, warp_n, lane);
    }
    copy_wait<0>();
    const int group = lane / 4, quad = lane % 4, first = (block_n * WARPS_N + warp_n) * NT;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int tile = warp_m * MT + m;
        const int y = row0 + tile / TILES, x = column0 + tile % TILES * 16 + half * 8 + group;
        if (y >= frame.output_height || x >= frame.output_width) continue;
        const long long pixel = static_cast<long long>(y) * frame.output_width + x;
        const long long plane = static_cast<long long>(frame.output_height) * frame.output_width * 16;
        if constexpr (E::BYTES == 2) {
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            float value[2];
#pragma unroll
            for (int e = 0; e < 2; ++e)
              value[e] = epilogue.template activate<ACT>(sums[m][n][half * 2 + e], n * 2 + e);
            const int channel = (first + n) * 8 + quad * 2;
            if (OPERAND == ALIGNED && channel / 8 < other_plane) {
              const unsigned pair =
                  *reinterpret_cast<const unsigned*>(other + channel / 8 * plane + pixel * 16 + quad * 4);
              value[0] += half_to_float(static_cast<unsigned short>(pair));
              value[1] += half_to_float(static_cast<unsigned short>(pair >> 16));
            } else if (OPERAND == MAPPED) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const int from = mapped_at[channel + e];
                value[e] += half_to_float(
                    *reinterpret_cast<const unsigned short*>(other + from / 8 * plane + pixel * 16 + from % 8 * 2));
              }
            }
            if (CLIP) {
#pragma unroll
              for (int e = 0; e < 2; ++e) value[e] = fminf(fmaxf(value[e], low), high);
            }
            store(y, x, channel, pack_halves(value[0], value[1]));
          }
        } else {
#pragma unroll
          for (int n = 0; n < NT; n += PAIRED ? 2 : 1) {
            unsigned word = 0;
            const int channel = first * 8 + channel_of<E, PAIRED>(n, quad * 2);
#pragma unroll
            for (int i = 0; i < (PAIRED ? 4 : 2); ++i) {
              const int tile_n = n + i / 2, e = i % 2;
              int value = epilogue.template requantise<WIDE_SHIFT>(sums[m][tile_n][half * 2 + e], tile_n * 2 + e);
              if (TABLE) value = reinterpret_cast<const signed char*>(parameters + table_at)[value + 128];
              const int from = OPERAND == MAPPED ? mapped_at[channel + i] : channel + i;
              if (OPERAND == MAPPED || (OPERAND == ALIGNED && from / 16 < other_plane))
                value = add.apply(value, reinterpret_cast<const signed char*>(
                                             other)[from / 16 * plane + pixel * 16 + from % 16]);
              word |= (static_cast<unsigned>(value) & 0xffu) << 8 * i;
            }
            store(y, x, channel, word);
          }
        }
      }
  }
};

// Stores to [planes][rows][columns][16 bytes]. VALUES of a store: 2 halves, or 4 (2) int8.
template <class E, int VALUES>
struct ToChunks {
  char* to;
  int height, width, planes;

  DEVICE void operator()(int y, int x, int channel, unsigned word) const {
    if (channel / E::CHUNK >= planes) return;
    const long long plane = channel / E::CHUNK;
    char* at = to + ((plane * height + y) * width + x) * 16 + channel % E::CHUNK * E::BYTES;
    if (VALUES * E::BYTES == 4)
      *reinterpret_cast<unsigned*>(at) = word;
    else
      *reinterpret_cast<unsigned short*>(at) = static_cast<unsigned short>(word);
  }
};

// Stores after moving channel c R R + i R + j to pixel (R y + i, R x + j) of channel c; in chunks, or NCHW.
template <class E, int VALUES, int R, bool CHUNKED>
struct ToPixels {
  char* to;
  int height, width, channels;  // before; channels after

  DEVICE void operator()(int y, int x, int channel, unsigned word) const {
#pragma unroll
    for (int v = 0; v < VALUES; ++v) {
      const int c = (channel + v) / (R * R), i = (channel + v) / R % R, j = (channel + v) % R;
      if (c >= channels) return;
      const long long line = (CHUNKED ? c / E::CHUNK : c) * static_cast<long long>(height * R) + y * R + i;
      const long long pixel = line * (width * R) + x * R + j;
      char* at = CHUNKED ? to + pixel * 16 + c % E::CHUNK * E::BYTES : to + pixel * E::BYTES;
      const unsigned bits = word >> v * 8 * E::BYTES;
      if (E::BYTES == 2)
        *reinterpret_cast<unsigned short*>(at) = static_cast<unsigned short>(bits);
      else
        *reinterpret_cast<unsigned char*>(at) = static_cast<unsigned char>(bits);
    }
  }
};
