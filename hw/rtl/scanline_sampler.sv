// WARP and RESIZE: bilinear samples of a buffer's rows, one row at a time, at each pixel's own place plus its flow, or at
// its own place times a step. A sample is a psum in units of 2^-16, in the array's own psum registers, so that the
// requantiser does the rest. What of a WARP lies outside the rows and columns on chip is read from memory, pixel by pixel.
module scanline_sampler
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // a row, which stays until it is done
    input  logic start_i,
    input  sample_row_t row_i,
    output logic done_o,
    // scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // memory, a beat at a time
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    output window_error_t window_error_o,
    // psums of one pixel and one channel group; done when a set is complete
    input  logic psum_held_i,  // the requantiser still reads the last set
    output psum_write_t psum_o,
    output logic psum_done_o,
    // events
    output logic beat_o,
    output logic gathered_o
);
  localparam int unsigned SetWords = CoLanes / CiLanes;
  localparam int unsigned ByteBits = $clog2(CiLanes) + 1;

  typedef enum logic [3:0] {
    Idle,
    Flow,
    FlowArrives,
    Wait,
    Upper,
    Lower,
    Locate,
    Ask,
    Take,
    Hand
  } state_e;
  state_e state_q;
  logic lower_q;  // the row that is gathered

  // Walk: pixel group, set of words, pixel, word.
  logic [15:0] group_q, group_x, left_x;
  logic [11:0] set_q, set_words, word_q, next_word;
  logic [LaneBits-1:0] pixel_q, next_pixel;
  logic last_word, last_pixel, last_set, last_group, granted, advance;
  assign group_x = group_q * 16'(PixelLanes);
  assign left_x = row_i.width - group_x;
  assign set_words = (row_i.words - set_q < 12'(SetWords)) ? row_i.words - set_q : 12'(SetWords);
  assign last_word = word_q + 12'd1 == set_words;
  assign last_pixel = (pixel_q == LaneBits'(PixelLanes - 1)) || (16'(pixel_q) + 16'd1 == left_x);
  assign last_set = set_q + set_words == row_i.words;
  assign last_group = group_q + 16'd1 == row_i.pixel_groups;
  assign next_word = (state_q == Wait) ? '0 : last_word ? '0 : word_q + 12'd1;
  assign next_pixel = (state_q == Wait) ? '0 : last_word ? pixel_q + 1'b1 : pixel_q;

  // Where a pixel's sample lies, in 1/256 of a pixel; its neighbours, within the frame.
  typedef struct packed {
    logic [15:0] x;        // the left pixel, or the frame's nearest
    logic one;             // the right one is the same
    logic [15:0] upper;
    logic [15:0] lower;
    logic left_zero;       // beyond the frame, where that reads as the zero point
    logic right_zero;
    logic upper_zero;
    logic lower_zero;
    logic [7:0] right_share;
    logic [7:0] lower_share;
  } place_t;
  logic signed [15:0] flow_x_q[PixelLanes], flow_y_q[PixelLanes];
  place_t place, place_q;

  // One multiplier: a row's step before it begins, then its pixels' steps; or how far a row that is gathered lies in memory.
  logic [15:0] pixel_x, position;
  logic [31:0] pitch;
  logic [47:0] product;
  logic [23:0] stepped, stepped_y_q;
  assign pixel_x  = row_i.frame_x + group_x + 16'(next_pixel);
  assign position = (state_q == Idle) ? row_i.y : (state_q != Locate) ? pixel_x : lower_q ? place_q.lower : place_q.upper;
  assign pitch = (state_q == Idle || state_q == Locate) ? row_i.row_stride : row_i.address;
  assign product = 48'(position) * 48'(pitch);
  assign stepped = product[47:24] + 24'(product[23]);  // the nearest 1/256 of a pixel

  function automatic logic [15:0] clamped(input logic signed [25:0] at, input logic [15:0] extent);
    if (at < 0) return '0;
    return (at >= signed'({10'b0, extent})) ? extent - 16'd1 : at[15:0];
  endfunction

  always_comb begin
    logic signed [33:0] x, y;
    logic signed [25:0] x0, y0;
    logic [3:0] more;
    more = 4'd8 - row_i.fraction_bits;
    x = row_i.steps ? 34'(stepped) :
        34'(signed'({2'b0, pixel_x, 8'b0})) + (34'(flow_x_q[next_pixel]) <<< more);
    y = row_i.steps ? 34'(stepped_y_q) :
        34'(signed'({2'b0, row_i.y, 8'b0})) + (34'(flow_y_q[next_pixel]) <<< more);
    x0 = x[33:8];
    y0 = y[33:8];
    place.x = clamped(x0, row_i.frame_width);
    place.one = clamped(x0 + 26'sd1, row_i.frame_width) == place.x;
    place.upper = clamped(y0, row_i.frame_height);
    place.lower = clamped(y0 + 26'sd1, row_i.frame_height);
    place.left_zero = !row_i.edge_pixels && ((x0 < 0) || (x0 >= signed'({10'b0, row_i.frame_width})));
    place.right_zero = !row_i.edge_pixels && ((x0 < -26'sd1) || (x0 + 26'sd1 >= signed'({10'b0, row_i.frame_width})));
    place.upper_zero = !row_i.edge_pixels && ((y0 < 0) || (y0 >= signed'({10'b0, row_i.frame_height})));
    place.lower_zero = !row_i.edge_pixels && ((y0 < -26'sd1) || (y0 + 26'sd1 >= signed'({10'b0, row_i.frame_height})));
    place.right_share = x[7:0];
    place.lower_share = y[7:0];
  end

  // Both pixels of a row are on chip, as all of a RESIZE are, or both are gathered; or neither is asked for.
  logic lower, on_chip, blank;
  logic [15:0] row, from_first;
  assign lower = state_q == Lower;
  assign row = lower ? place_q.lower : place_q.upper;
  assign from_first = place_q.x - row_i.x_first;
  assign on_chip = row_i.steps || ((row >= row_i.window_first) && (row < row_i.window_end) &&
      (place_q.x >= row_i.x_first) && (17'(from_first) + 17'(!place_q.one) < 17'(row_i.source_width)));
  assign blank = (lower ? place_q.lower_zero : place_q.upper_zero) || (place_q.left_zero && place_q.right_zero);
  assign segment_o.valid = (state_q == Flow) || (((state_q == Upper) || lower) && on_chip && !blank);
  always_comb begin
    segment_o.at.row_valid = 1'b1;
    segment_o.at.edge_pixels = 1'b0;
    segment_o.at.zero_point = row_i.zero_point;
    if (state_q == Flow) begin
      segment_o.at.address = row_i.flow_address;
      segment_o.at.x = signed'({2'b0, group_x}) + 18'(row_i.flow_x);
      segment_o.at.width = segment_end(segment_o.at.x, 18'(PixelLanes), row_i.flow_width);
    end else begin
      segment_o.at.address = row_i.base +
          16'(slot_of(row, row_i.next_row, row_i.next_slot, row_i.rows) * row_i.row_pitch) +
          16'(16'(set_q + word_q) * row_i.group_pitch);
      segment_o.at.x = signed'({2'b0, from_first});
      segment_o.at.width = segment_end(segment_o.at.x, 18'd2, row_i.source_width);
    end
  end

  // Gathering: the pixels' words, from one beat or two each.
  logic [31:0] address_q;
  logic [BusShift-1:0] offset;
  logic [ByteBits-1:0] bytes_q;  // of the word that exist
  logic second_beat_q, right_q, straddles, word_there, gathered;
  logic [1:0][WordBits-1:0] pixels_q;
  logic [WordBits-1:0] taken;
  assign offset = address_q[BusShift-1:0];
  assign straddles = 32'(offset) + 32'(bytes_q) > BusBytes;
  assign read_o.offset = ((address_q >> BusShift) + 32'(second_beat_q)) << BusShift;
  assign read_o.len = '0;
  assign window_error_o.valid = (state_q == Ask) && !stop_i && (33'(read_o.offset) + 33'(BusBytes) > 33'(memory_bytes_i));
  assign window_error_o.address = read_o.offset;
  assign read_o.valid = (state_q == Ask) && !stop_i && !window_error_o.valid;
  assign word_there = (state_q == Take) && beat_i.valid && (second_beat_q || !straddles);
  assign gathered = word_there && (right_q || place_q.one);
  assign gathered_o = gathered;
  assign beat_o = (state_q == Take) && beat_i.valid;
  always_comb begin
    logic [WordBits-1:0] bits;
    bits = second_beat_q ? pixels_q[right_q] | WordBits'(beat_i.data << (8 * (BusBytes - 32'(offset))))
                         : WordBits'(beat_i.data >> (8 * 32'(offset)));
    for (int unsigned j = 0; j < CiLanes; j++) begin
      taken[8*j+:8] = (j < 32'(bytes_q)) ? bits[8*j+:8] : row_i.zero_point;
    end
  end

  assign granted = ((state_q == Upper) || lower) && (blank || (on_chip && segment_grant_i));
  assign advance = granted || gathered;

  // Two rows of a sample arrive one after the other; the first waits for the second.
  typedef struct packed {
    logic gathered;
    logic one;
    logic left_zero;
    logic right_zero;
    logic [7:0] right_share;
  } pair_t;
  typedef struct packed {
    logic lower;
    logic [7:0] lower_share;
    logic [LaneBits-1:0] pixel;
    logic [11:0] word;
    logic last;
  } sample_t;
  pair_t pair_q;
  sample_t arriving_q, crossed_q;
  logic arrives_q, crossed_valid_q, now_lower, now_zero;
  logic signed [CiLanes-1:0][17:0] crossed, value_q, upper_q;
  assign now_lower = granted ? lower : lower_q;
  assign now_zero  = now_lower ? place_q.lower_zero : place_q.upper_zero;
  always_comb begin
    for (int unsigned j = 0; j < CiLanes; j++) begin
      logic signed [7:0] left, right;
      left = pair_q.gathered ? pixels_q[0][8*j+:8] : segment_data_i[0][8*j+:8];
      right = pair_q.one ? left : pair_q.gathered ? pixels_q[1][8*j+:8] : segment_data_i[1][8*j+:8];
      if (pair_q.left_zero) left = row_i.zero_point;
      if (pair_q.right_zero) right = row_i.zero_point;
      crossed[j] = 18'(left) * (18'sd256 - signed'(18'(pair_q.right_share))) +
          18'(right) * signed'(18'(pair_q.right_share));
    end
  end
  logic signed [CiLanes-1:0][31:0] sample;
  always_comb begin
    for (int unsigned j = 0; j < CiLanes; j++) begin
      sample[j] = 32'(signed'(upper_q[j])) * (32'sd256 - signed'(32'(crossed_q.lower_share))) +
          32'(signed'(value_q[j])) * signed'(32'(crossed_q.lower_share));
    end
    psum_o.data = sample;
    // A flow's samples are those of its bytes, of which the high ones count 256-fold.
    if (row_i.wide) begin
      for (int unsigned j = 0; j < 2; j++) begin
        psum_o.data[j] = (sample[j] <<< 8) + sample[j+2];
        psum_o.data[j+2] = psum_o.data[j];
      end
    end
  end
  assign psum_o.valid = crossed_valid_q && crossed_q.lower;
  assign psum_o.pixel = crossed_q.pixel;
  assign psum_o.word = crossed_q.word;

  assign done_o = (state_q == Hand) && psum_done_o && last_set && last_group;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= Idle;
      lower_q <= 1'b0;
      second_beat_q <= 1'b0;
      right_q <= 1'b0;
      group_q <= '0;
      set_q <= '0;
      pixel_q <= '0;
      word_q <= '0;
      arrives_q <= 1'b0;
      crossed_valid_q <= 1'b0;
      psum_done_o <= 1'b0;
    end else begin
      unique case (state_q)
        Idle: if (start_i) state_q <= row_i.steps ? Wait : Flow;
        Flow: if (segment_grant_i) state_q <= FlowArrives;
        FlowArrives: state_q <= Wait;
        Wait: if (!psum_held_i) state_q <= Upper;
        Upper, Lower:
        if (!on_chip && !blank) begin
          state_q <= Locate;
          lower_q <= lower;
        end else if (granted) begin
          if (!lower) state_q <= Lower;
          else state_q <= (last_word && last_pixel) ? Hand : Upper;
        end
        Locate: state_q <= Ask;
        Ask: if (read_o.valid && read_ready_i) state_q <= Take;
        Take:
        if (beat_i.valid) begin
          if (!word_there) state_q <= Ask;
          else if (!gathered) state_q <= Ask;
          else if (!lower_q) state_q <= Lower;
          else state_q <= (last_word && last_pixel) ? Hand : Upper;
          second_beat_q <= !word_there;
          if (word_there) right_q <= !gathered;
        end
        Hand:
        if (psum_done_o) begin
          set_q <= last_set ? '0 : set_q + set_words;
          if (last_set) group_q <= last_group ? '0 : group_q + 16'd1;
          state_q <= (last_set && last_group) ? Idle : (!last_set || row_i.steps) ? Wait : Flow;
        end
        default: state_q <= Idle;
      endcase
      if (state_q == Wait || (advance && now_lower)) begin
        pixel_q <= next_pixel;
        word_q  <= next_word;
      end
      arrives_q <= advance;
      crossed_valid_q <= arrives_q;
      psum_done_o <= psum_o.valid && crossed_q.last;
    end
  end

  always_ff @(posedge clk_i) begin
    if (state_q == FlowArrives) begin
      for (int unsigned p = 0; p < PixelLanes; p++) begin
        // High bytes of both directions, then low ones, which are signed as well.
        flow_x_q[p] <= {segment_data_i[p][7:0], 8'b0} + 16'(signed'(segment_data_i[p][23:16]));
        flow_y_q[p] <= {segment_data_i[p][15:8], 8'b0} + 16'(signed'(segment_data_i[p][31:24]));
      end
    end
    if (state_q == Idle) stepped_y_q <= stepped;
    if (state_q == Wait || (advance && now_lower)) place_q <= place;
    if (state_q == Locate) begin
      address_q <= row_i.address + product[31:0] + 32'(row_i.pixel_pitch) * 32'(place_q.x) + 32'(set_q + word_q) * 32'(CiLanes);
      bytes_q <= (32'(row_i.channels) - 32'(set_q + word_q) * CiLanes < CiLanes)
          ? ByteBits'(32'(row_i.channels) - 32'(set_q + word_q) * CiLanes) : ByteBits'(CiLanes);
    end
    if (state_q == Take && beat_i.valid) begin
      pixels_q[right_q] <= taken;
      if (word_there && !gathered) address_q <= address_q + 32'(row_i.pixel_pitch);
    end
    if (advance) begin
      arriving_q.lower <= now_lower;
      pair_q.gathered <= gathered;
      pair_q.one <= place_q.one;
      pair_q.left_zero <= place_q.left_zero || now_zero;
      pair_q.right_zero <= place_q.right_zero || now_zero;
      pair_q.right_share <= place_q.right_share;
      arriving_q.lower_share <= place_q.lower_share;
      arriving_q.pixel <= pixel_q;
      arriving_q.word <= word_q;
      arriving_q.last <= last_word && last_pixel;
    end
    if (arrives_q) begin
      crossed_q <= arriving_q;
      value_q   <= crossed;
    end
    if (crossed_valid_q && !crossed_q.lower) upper_q <= value_q;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Read, read_o.valid, read_ready_i, read_o, stop_i)
  `SCANLINE_HANDSHAKE(Segment, segment_o.valid, segment_grant_i, segment_o, 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= Hand)
      `SCANLINE_ASSERT(LeftInFrame, (state_q != Upper) || (place_q.x < row_i.frame_width))
      `SCANLINE_ASSERT(UpperInFrame, (state_q != Upper) || (place_q.upper < row_i.frame_height))
      `SCANLINE_ASSERT(LowerInFrame, (state_q != Lower) || (place_q.lower < row_i.frame_height))
      `SCANLINE_ASSERT(RowOnChip, !segment_o.valid || (state_q == Flow) || (16'(row_i.next_row - row) <= row_i.rows))
      `SCANLINE_ASSERT(ColumnOnChip, !segment_o.valid || (state_q == Flow) || (from_first < row_i.source_width))
      `SCANLINE_ASSERT(ReadInWindow, !read_o.valid || (33'(read_o.offset) + 33'(BusBytes) <= 33'(memory_bytes_i)))
      `SCANLINE_ASSERT(BeatAwaited, !beat_i.valid || stop_i || (state_q == Take))
      `SCANLINE_ASSERT(PsumsFree, !psum_o.valid || !psum_held_i)
      `SCANLINE_ASSERT(PixelCounted, ((state_q != Upper) && (state_q != Lower)) || (16'(pixel_q) < left_x))
      `SCANLINE_ASSERT(WordCounted, ((state_q != Upper) && (state_q != Lower)) || (word_q < set_words))
      `SCANLINE_ASSERT(GroupCounted, (state_q == Idle) || (group_q < row_i.pixel_groups))
      `SCANLINE_ASSERT(SetCounted, (state_q == Idle) || (set_q < row_i.words))
      `SCANLINE_ASSERT(FlowHasFractions, (state_q != Flow) || (row_i.fraction_bits <= 4'd8))
    end
  end
`endif
endmodule
