// A stack of thin convolutions in one launch: each layer's weights stay in registers, each tensor is a few rows in
// shared memory, and the block marches down its strip of the frame, one row of every layer per step.
//
// A block computes a strip of columns over a band of rows. Its warps have fixed roles: one loads rows of the frame, one
// stores rows of the result, the others each compute some 16-pixel tiles of one layer (all output channels, or some).
// In step s every role works on the rows of earlier steps; one barrier ends the step. So rows flow through the layers
// as through Scanline's cascades, and no intermediate leaves the chip.
//
// A layer reads each row of its source once: the row adds to KH rows of sums, kept in registers until the last row of
// the window has been added. That is 1/KH of the shared-memory reads of computing one output row at a time.
//
// Layout. A row of a tensor in shared memory is planes of 16-byte chunks, one chunk a pixel: conflict-free for ldmatrix
// (8 pixels are 128 contiguous bytes) and for the epilogue's stores. In global memory tensors between launches are
// [planes][rows][columns][16 bytes]; the frame and the result are the user's NCHW.
//
// It does not support strides, several frame sizes in a stack, or layers whose weights exceed the registers.
#pragma once

#include "lanes.cuh"
#include "requantise.cuh"

// A tensor's rolling buffer. Row (band's first row + origin + s) is written in step s, to slot s % rows.
struct Ring {
  int offset, rows, row_bytes, plane_bytes, planes;
  int origin;  // first row
  int left;    // column of its first pixel, relative to the strip's first
  int pixels;  // pixels needed by some layer or store
  int after;   // rows below the band that are needed
};

// Position of a block.
struct Place {
  int height, width;      // size of the frame
  int top, rows;          // the band
  int strip;              // first column of the strip
  int steps;
};

struct Source {
  Ring ring;
  int delay;   // steps between writing a row and reading it here
  int column;  // the pixel of the source that output pixel 0 starts at

  DEVICE char* row(int step) const {
    return shared_memory() + ring.offset + (step - delay) % ring.rows * ring.row_bytes + column * 16;
  }
};

enum Operand { NOTHING, ALIGNED, MAPPED };  // the second operand: none, channel c to channel c, by a table

// One warp's share of a layer.
struct Work {
  Source source, other;
  Ring output;
  int first, last;        // steps in which a source row is added
  int tile, column_tile;  // first tile of 16 pixels; first tile of 8 output channels
  int parameters;         // bytes into the parameter blob
  int padding;            // value of pixels outside the frame
  float low, high;        // clip, FP16
  int table;              // bytes into the blob of an activation table, INT8
  AddRule add;            // INT8
};

// The output channel, counted from the first of its chunk pair, of column `n` of an int8 tile: a lane's four values of
// two tiles become four adjacent bytes.
template <class E, bool PAIRED>
DEVICE int channel_of(int tile, int n) {
  if (E::BYTES == 2) return tile * 8 + n;
  if (PAIRED) return tile / 2 * 16 + n / 2 * 4 + tile % 2 * 2 + n % 2;
  return tile / 2 * 16 + tile % 2 * 8 + n;
}

// KH x KW taps over CHUNKS chunks a pixel, TILES tiles of 16 pixels, NT tiles of 8 output channels.
template <class E, int KH, int KW, int CHUNKS, int NT, int TILES, Activation ACT, Operand OPERAND, bool CLIP, bool WIDE_SHIFT,
          bool TABLE>
struct Layer {
  using Sum = typename E::Sum;
  static constexpr int PLANE_PAIRS = KW * (CHUNKS / 2);               // two chunks of one pixel
  static constexpr int PIXEL_PAIRS = CHUNKS % 2 ? KW / 2 : 0;         // the odd chunk of two neighbours
  static constexpr int SINGLES = CHUNKS % 2 && KW % 2 ? 1 : 0;        // the odd chunk of the last pixel
  static constexpr int PAIRS = PLANE_PAIRS + PIXEL_PAIRS;
  static constexpr int WORDS = 2 * PAIRS + SINGLES;
  static constexpr bool PAIRED = NT % 2 == 0;

  unsigned weights[KH][WORDS][NT];
  Epilogue<E, NT, ACT == PRELU> epilogue;
  int mapped[OPERAND == MAPPED ? NT * 2 : 1];
  Sum sums[TILES][KH][NT][4];

  DEVICE void read_parameters(const Work& work, const char* parameters, int lane) {
    const char* from = parameters + work.parameters;
    const auto* words = reinterpret_cast<const unsigned*>(from);
#pragma unroll
    for (int dy = 0; dy < KH; ++dy)
#pragma unroll
      for (int k = 0; k < WORDS; ++k)
#pragma unroll
        for (int n = 0; n < NT; ++n) weights[dy][k][n] = words[((dy * WORDS + k) * NT + n) * WARP + lane];
    from += KH * WORDS * NT * WARP * 4;
    from = epilogue.read(from, lane);
    if (OPERAND == MAPPED) {
      const auto* offsets = reinterpret_cast<const int*>(from);
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) mapped[n * 2 + e] = offsets[n * 8 + lane % 4 * 2 + e];
    }
  }

  DEVICE void begin_row(Sum (&row)[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
      for (int part = 0; part < 4; ++part) row[n][part] = epilogue.bias[n * 2 + part % 2];
  }

  template <int CHUNK_COUNT>
  DEVICE void accumulate(int tile, const unsigned (&pixels)[CHUNK_COUNT * 2], int k) {
#pragma unroll
    for (int dy = 0; dy < KH; ++dy)
#pragma unroll
      for (int n = 0; n < NT; ++n)
        if constexpr (CHUNK_COUNT == 2)
          multiply(sums[tile][KH - 1 - dy][n], pixels, weights[dy][k][n], weights[dy][k + 1][n]);
        else
          multiply(sums[tile][KH - 1 - dy][n], pixels, weights[dy][k][n]);
  }

  // Adds a row of the source to the sums of KH output rows.
  DEVICE void add_row(int tile, const char* row, int plane_bytes, int lane) {
    const char* pixel = row + (tile * 16 + lane % 16) * 16;
    const char* planes = pixel + lane / 16 * plane_bytes;  // lanes 16 to 31 address the second chunk
    const char* neighbours = pixel + lane / 16 * 16;
    unsigned pair[4];
#pragma unroll
    for (int dx = 0; dx < KW; ++dx)
#pragma unroll
      for (int chunk = 0; chunk + 1 < CHUNKS; chunk += 2) {
        load_matrices(pair, planes + dx * 16 + chunk * plane_bytes);
        accumulate<2>(tile, pair, 2 * (dx * (CHUNKS / 2) + chunk / 2));
      }
    const char* odd = neighbours + (CHUNKS - 1) * plane_bytes;
#pragma unroll
    for (int i = 0; i < PIXEL_PAIRS; ++i) {
      load_matrices(pair, odd + i * 32);
      accumulate<2>(tile, pair, 2 * (PLANE_PAIRS + i));
    }
    if constexpr (SINGLES) {
      unsigned single[2];
      load_matrices(single, pixel + (CHUNKS - 1) * plane_bytes + (KW - 1) * 16);
      accumulate<1>(tile, single, 2 * PAIRS);
    }
  }

  DEVICE void march(const Work& work, const Place& place, const char* parameters, int lane, int threads) {
    read_parameters(work, parameters, lane);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
      for (int y = 0; y < KH; ++y) begin_row(sums[tile][y]);
    const int last = place.rows + work.last;
#pragma unroll 1
    for (int step = 0; step < place.steps; ++step) {
      if (step >= work.first && step <= last) {
        const char* source = work.source.row(step) + work.tile * 256;
        const int row = place.top + work.output.origin + step;
        char* output = shared_memory() + work.output.offset + step % work.output.rows * work.output.row_bytes;
        const char* other = OPERAND == NOTHING ? nullptr : work.other.row(step);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
          add_row(tile, source, work.source.ring.plane_bytes, lane);
          if (step >= work.first + KH - 1) finish(work, place, parameters, tile, row, output, other, lane);
#pragma unroll
          for (int y = 0; y + 1 < KH; ++y)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
              for (int part = 0; part < 4; ++part) sums[tile][y][n][part] = sums[tile][y + 1][n][part];
          begin_row(sums[tile][KH - 1]);
        }
      }
      barrier(0, threads);
    }
  }

  // Stores the finished row of a tile: activation, second operand, rounding.
  DEVICE void finish(const Work& work, const Place& place, const char* parameters, int tile, int row, char* output,
                     const char* other, int lane) {
    const int group = lane / 4, quad = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pixel = (work.tile + tile) * 16 + half * 8 + group;
      const int column = place.strip + work.output.left + pixel;
      const bool inside = row >= 0 && row < place.height && column >= 0 && column < place.width;
      const char* second = other + pixel * 16;
      const int plane_bytes = work.output.plane_bytes;
      if constexpr (E::BYTES == 2) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          float value[2];
#pragma unroll
          for (int e = 0; e < 2; ++e)
            value[e] = epilogue.template activate<ACT>(sums[tile][0][n][half * 2 + e], n * 2 + e);
          if (OPERAND == ALIGNED) {
            const unsigned pair = *reinterpret_cast<const unsigned*>(
                second + (work.column_tile + n) * work.other.ring.plane_bytes + quad * 4);
            value[0] += half_to_float(static_cast<unsigned short>(pair));
            value[1] += half_to_float(static_cast<unsigned short>(pair >> 16));
          } else if (OPERAND == MAPPED) {
#pragma unroll
            for (int e = 0; e < 2; ++e)
              value[e] += half_to_float(*reinterpret_cast<const unsigned short*>(second + mapped[n * 2 + e]));
          }
          if (CLIP) {
#pragma unroll
            for (int e = 0; e < 2; ++e) value[e] = fminf(fmaxf(value[e], work.low), work.high);
          }
          *reinterpret_cast<unsigned*>(output + (work.column_tile + n) * plane_bytes + pixel * 16 + quad * 4) =
              inside ? pack_halves(value[0], value[1]) : 0u;
        }
      } else {
#pragma unroll
        for (int n = 0; n < NT; n += PAIRED ? 2 : 1) {
          unsigned word = 0;
#pragma unroll
          for (int i = 0; i < (PAIRED ? 4 : 2); ++i) {
            const int tile_n = n + i / 2, e = i % 2;
            int value = epilogue.template requantise<WIDE_SHIFT>(sums[tile][0][tile_n][half * 2 + e], tile_n * 2 + e);
            if (TABLE) value = reinterpret_cast<const signed char*>(parameters + work.table)[value + 128];
            if (OPERAND != NOTHING) {
              const int channel = work.column_tile * 8 + channel_of<E, PAIRED>(tile_n, quad * 2 + e);
              const int offset =
                  OPERAND == MAPPED ? mapped[tile_n * 2 + e] : channel / 16 * work.other.ring.plane_bytes + channel % 16;
              value = work.add.apply(value, reinterpret_cast<const signed char*>(second)[offset]);
            }
            word |= (static_cast<unsigned>(value) & 0xffu) << 8 * i;
          }
          const int channel = work.column_tile * 8 + channel_of<E, PAIRED>(n, quad * 2);
          char* to = output + channel / 16 * plane_bytes + pixel * 16 + channel % 16;
          const unsigned outside = static_cast<unsigned>(work.padding & 0xff) * 0x01010101u;
          if (PAIRED)
            *reinterpret_cast<unsigned*>(to) = inside ? word : outside;
          else
            *reinterpret_cast<unsigned short*>(to) = static_cast<unsigned short>(inside ? word : outside);
        }
      }
    }
  }
};

// Loads rows of a chunked tensor, PREFETCH rows ahead.
template <int PREFETCH>
DEVICE void load_chunked(const Ring& ring, const char* from, int padding, const Place& place, int lane, int threads) {
  const int chunks = ring.planes * ring.pixels;
  const int last = place.rows + ring.after - 1 - ring.origin;  // the last step whose row is needed
  const unsigned word = static_cast<unsigned>(padding & 0xff) * 0x01010101u;
#pragma unroll 1
  for (int step = -PREFETCH; step < place.steps; ++step) {
    const int ahead = step + PREFETCH;
    if (ahead <= last) {
      const int row = place.top + ring.origin + ahead;
      char* to = shared_memory() + ring.offset + ahead % ring.rows * ring.row_bytes;
      for (int i = lane; i < chunks; i += WARP) {
        const int plane = i / ring.pixels, pixel = i % ring.pixels, column = place.strip + ring.left + pixel;
        const bool inside = row >= 0 && row < place.height && column >= 0 && column < place.width;
        char* chunk = to + plane * ring.plane_bytes + pixel * 16;
        const long long index = (static_cast<long long>(plane) * place.height + row) * place.width + column;
        if (inside || padding == 0)
          copy_chunk(chunk, from + (inside ? index * 16 : 0), inside);
        else
          *reinterpret_cast<uint4*>(chunk) = uint4{word, word, word, word};
      }
    }
    copy_commit();
    if (step >= 0) {
      copy_wait<PREFETCH>();
      barrier(0, threads);
    }
  }
  copy_wait<0>();
}

// Loads rows of an NCHW tensor of few channels and unfolds them: a pixel's chunk holds KW x CHANNELS values, its
// neighbours' too, so that a layer of KW taps finds them in one place. Values are read a step ahead.
template <class E, int KW, int CHANNELS, int PIXELS>
DEVICE void load_unfolded(const Ring& ring, const char* from, int padding, const Place& place, int lane, int threads) {
  constexpr int VALUES = KW * CHANNELS, CHUNKS = (VALUES + E::CHUNK - 1) / E::CHUNK;
  constexpr int ROUNDS = (PIXELS + WARP - 1) / WARP, PER_WORD = 4 / E::BYTES, WORDS = CHUNKS * 4;
  unsigned words[ROUNDS][WORDS];
  const unsigned outside = E::BYTES == 2 ? 0u : static_cast<unsigned>(padding & 0xff);
#pragma unroll 1
  for (int step = -1; step < place.steps; ++step) {
    if (step >= 0) {
      char* to = shared_memory() + ring.offset + step % ring.rows * ring.row_bytes;
#pragma unroll
      for (int round = 0; round < ROUNDS; ++round) {
        const int pixel = round * WARP + lane;
        if (pixel < PIXELS) {
#pragma unroll
          for (int chunk = 0; chunk < CHUNKS; ++chunk)
            *reinterpret_cast<uint4*>(to + chunk * ring.plane_bytes + pixel * 16) =
                uint4{words[round][chunk * 4], words[round][chunk * 4 + 1], words[round][chunk * 4 + 2],
                      words[round][chunk * 4 + 3]};
        }
      }
    }
    const int row = place.top + ring.origin + step + 1;
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
#pragma unroll
      for (int word = 0; word < WORDS; ++word) words[round][word] = 0;
#pragma unroll
      for (int value = 0; value < VALUES; ++value) {
        const int column = place.strip + ring.left + round * WARP + lane + value / CHANNELS - KW / 2;
        const bool inside = row >= 0 && row < place.height && column >= 0 && column < place.width;
        const long long index = (static_cast<long long>(value % CHANNELS) * place.height + row) * place.width + column;
        unsigned bits = outside;
        if (inside) {
          if (E::BYTES == 2)
            bits = reinterpret_cast<const unsigned short*>(from)[index];
          else
            bits = reinterpret_cast<const unsigned char*>(from)[index];
        }
        words[round][value / PER_WORD] |= bits << value % PER_WORD * 8 * E::BYTES;
      }
    }
    if (step >= 0) barrier(0, threads);
  }
}

// Stores rows of a chunked tensor as they are.
DEVICE void store_chunked(const Source& source, char* to, const Place& place, int columns, int lane, int threads) {
#pragma unroll 1
  for (int step = 0; step < place.steps; ++step) {
    const int row = source.ring.origin + step - source.delay;
    if (row >= 0 && row < place.rows) {
      const char* from = source.row(step);
      const int count = min(columns, place.width - place.strip);
      for (int i = lane; i < source.ring.planes * count; i += WARP) {
        const int plane = i / count, pixel = i % count;
        const long long index =
            (static_cast<long long>(plane) * place.height + place.top + row) * place.width + place.strip + pixel;
        store_global16(to + index * 16, *reinterpret_cast<const uint4*>(from + plane * source.ring.plane_bytes + pixel * 16));
      }
    }
    barrier(0, threads);
  }
}

// Stores rows as NCHW, after moving channel c R R + i R + j to pixel (R y + i, R x + j) of channel c.
template <class E, int R, int CHANNELS>
DEVICE void store_shuffled(const Source& source, char* to, const Place& place, int columns, int lane, int threads) {
  constexpr int GROUP = E::CHUNK;  // values of one 16-byte store
  const int count = min(columns, place.width - place.strip) * R;  // values of a row
  const int width = place.width * R;
  const bool aligned = width % GROUP == 0 && place.strip * R % GROUP == 0;
  const int groups = (count + GROUP - 1) / GROUP;
#pragma unroll 1
  for (int step = 0; step < place.steps; ++step) {
    const int row = source.ring.origin + step - source.delay;
    if (row >= 0 && row < place.rows) {
      const char* from = source.row(step);
      for (int item = lane; item < CHANNELS * R * groups; item += WARP) {
        const int group = item % groups, i = item / groups % R, c = item / groups / R;
        char* line = to + ((static_cast<long long>(c) * place.height + place.top + row) * R + i) * width * E::BYTES +
                     static_cast<long long>(place.strip) * R * E::BYTES;
        unsigned words[4] = {0, 0, 0, 0};
#pragma unroll
        for (int v = 0; v < GROUP; ++v) {
          const int x = min(group * GROUP + v, count - 1);
          const int channel = (c * R + i) * R + x % R;
          const char* at = from + channel / E::CHUNK * source.ring.plane_bytes + x / R * 16 + channel % E::CHUNK * E::BYTES;
          const unsigned bits = E::BYTES == 2 ? *reinterpret_cast<const unsigned short*>(at)
                                              : *reinterpret_cast<const unsigned char*>(at);
          words[v * E::BYTES / 4] |= bits << v * E::BYTES % 4 * 8;
        }
        if (aligned && group * GROUP + GROUP <= count) {
          store_global16(line + group * 16, uint4{words[0], words[1], words[2], words[3]});
        } else {
#pragma unroll
          for (int v = 0; v < GROUP; ++v)
            if (group * GROUP + v < count) {
              const unsigned bits = words[v * E::BYTES / 4] >> v * E::BYTES % 4 * 8;
              if (E::BYTES == 2)
                reinterpret_cast<unsigned short*>(line)[group * GROUP + v] = static_cast<unsigned short>(bits);
              else
                reinterpret_cast<unsigned char*>(line)[group * GROUP + v] = static_cast<unsigned char>(bits);
            }
        }
      }
    }
    barrier(0, threads);
  }
}

// The same, stored in chunks: [planes][R height][R width][16 bytes].
template <class E, int R, int CHANNELS>
DEVICE void store_shuffled_chunks(const Source& source, char* to, const Place& place, int columns, int lane, int threads) {
  constexpr int PLANES = (CHANNELS + E::CHUNK - 1) / E::CHUNK;
  const int count = min(columns, place.width - place.strip) * R;
#pragma unroll 1
  for (int step = 0; step < place.steps; ++step) {
    const int row = source.ring.origin + step - source.delay;
    if (row >= 0 && row < place.rows) {
      const char* from = source.row(step);
      for (int item = lane; item < PLANES * R * count; item += WARP) {
        const int x = item % count, i = item / count % R, plane = item / count / R;
        unsigned words[4] = {0, 0, 0, 0};
#pragma unroll
        for (int v = 0; v < E::CHUNK; ++v) {
          const int c = min(plane * E::CHUNK + v, CHANNELS - 1), channel = (c * R + i) * R + x % R;
          const char* at = from + channel / E::CHUNK * source.ring.plane_bytes + x / R * 16 + channel % E::CHUNK * E::BYTES;
          const unsigned bits = E::BYTES == 2 ? *reinterpret_cast<const unsigned short*>(at)
                                              : *reinterpret_cast<const unsigned char*>(at);
          words[v * E::BYTES / 4] |= bits << v * E::BYTES % 4 * 8;
        }
        const long long line = (static_cast<long long>(plane) * place.height + place.top + row) * R + i;
        store_global16(to + ((line * place.width + place.strip) * R + x) * 16,
                       uint4{words[0], words[1], words[2], words[3]});
      }
    }
    barrier(0, threads);
  }
}
