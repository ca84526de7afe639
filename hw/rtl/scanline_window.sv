// WINDOW: every pixel's window of its own map in memory, bilinear samples around its place plus its flow. Rows of the
// windows come from the memory in the order in which they were asked for; they are interpolated across, and with the row
// above, which waited here, down. Samples are psums in units of 2^-16, in the array's own psum registers.
module scanline_window
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // a row, which stays until it is done
    input  logic start_i,
    input  window_row_t row_i,
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
  localparam int unsigned RowBytes = WindowRowWords * CiLanes + 1;
  localparam int unsigned RowBits = (WindowRowWords > 1) ? $clog2(WindowRowWords) : 1;
  localparam int unsigned SetBits = (SetWords > 1) ? $clog2(SetWords) : 1;
  localparam int unsigned AboveWords = PixelLanes * WindowRowWords;

  // What is on its way: beats, and the rows that they are for.
  logic entry_in_valid, entry_in_ready, entry_valid, entry_take, beat_valid, beat_take, beat_ready;
  window_entry_t entry_in, entry;
  logic [BusBits-1:0] beat;
  logic [$clog2(WindowBeats):0] entry_count, beat_count;
  scanline_window_walker u_walker (
      .clk_i,
      .rst_ni,
      .stop_i,
      .memory_bytes_i,
      .start_i,
      .row_i,
      .segment_o,
      .segment_grant_i,
      .segment_data_i,
      .read_o,
      .read_ready_i,
      .window_error_o,
      .beat_taken_i(beat_take),
      .entry_valid_o(entry_in_valid),
      .entry_ready_i(entry_in_ready),
      .entry_o(entry_in)
  );
  scanline_stream_fifo #(
      .Width($bits(window_entry_t)),
      .Depth(WindowBeats)
  ) u_entries (
      .clk_i,
      .rst_ni,
      .valid_i(entry_in_valid),
      .ready_o(entry_in_ready),
      .data_i(entry_in),
      .valid_o(entry_valid),
      .ready_i(entry_take),
      .data_o(entry),
      .count_o(entry_count)
  );
  scanline_stream_fifo #(
      .Width(BusBits),
      .Depth(WindowBeats)
  ) u_beats (
      .clk_i,
      .rst_ni,
      .valid_i(beat_i.valid),
      .ready_o(beat_ready),
      .data_i(beat_i.data),
      .valid_o(beat_valid),
      .ready_i(beat_take),
      .data_o(beat),
      .count_o(beat_count)
  );
  assign beat_o = beat_i.valid;
  assign gathered_o = entry_take && (entry.low || entry.high);

  // A row's bytes, of one beat, two or none; beyond the map is its zero point.
  logic low_there_q, row_valid_q, row_taken, beat_wanted;
  logic [BusBits-1:0] low_q;
  logic [RowBytes-1:0][7:0] bytes, bytes_q;
  logic [7:0] right_share_q, lower_share_q;
  assign beat_wanted = (entry.low && !low_there_q) || entry.high;
  assign entry_take = entry_valid && (!row_valid_q || row_taken) &&
      (!beat_wanted || (beat_valid && (low_there_q || !(entry.low && entry.high))));
  assign beat_take = entry_valid && beat_valid && beat_wanted && (entry_take || (entry.low && entry.high && !low_there_q));
  always_comb begin
    logic [2*BusBits-1:0] both;
    both = {beat, low_there_q ? low_q : beat} >> (8 * 32'(entry.offset));
    for (int unsigned j = 0; j < RowBytes; j++) begin
      bytes[j] = row_i.zero_point;
      if ((j < 2 * BusBytes) && (j >= 32'(entry.first)) && (j < 32'(entry.past))) bytes[j] = both[8*j+:8];
    end
  end

  // The same walk again: pixel group, band, row of the window, pixel, word of the row.
  logic [15:0] group_q, left_x;
  logic [3:0] first_column_q, side, columns, window_row_q;
  logic [LaneBits-1:0] pixel_q;
  logic [RowBits:0] row_words;
  logic [RowBits-1:0] word_q;
  logic [SetBits:0] set_q;  // words of the set before this row's
  logic last_word, last_pixel, last_row, last_band, last_group, set_ends, issue, handing_q;
  assign left_x = row_i.width - group_q * 16'(PixelLanes);
  assign side = {row_i.radius, 1'b1};
  assign columns = window_columns(side, first_column_q);
  always_comb begin
    row_words = (RowBits + 1)'(1);
    if (32'(columns) > CiLanes) row_words = (RowBits + 1)'(2);
    if (32'(columns) > 2 * CiLanes) row_words = (RowBits + 1)'(4);
  end
  assign last_word = (RowBits + 1)'(word_q) + 1'b1 == row_words;
  assign last_pixel = (pixel_q == LaneBits'(PixelLanes - 1)) || (16'(pixel_q) + 16'd1 == left_x);
  assign last_row = window_row_q == side;
  assign last_band = first_column_q + columns == side;
  assign last_group = group_q + 16'd1 == row_i.pixel_groups;
  assign set_ends = (32'(set_q) + 32'(row_words) == SetWords) || (last_row && last_band);
  assign issue = row_valid_q && ((window_row_q == '0) || (!handing_q && !psum_held_i));
  assign row_taken = issue && last_word;

  // Across; then down, with what the row above left.
  typedef struct packed {
    logic below;  // there is a row above
    logic [7:0] lower_share;
    logic [LaneBits-1:0] pixel;
    logic [SetBits:0] word;  // of the set
    logic last;              // of the set
    logic ends;              // the row of the frame
  } sample_t;
  localparam int unsigned AboveBits = (AboveWords > 1) ? $clog2(AboveWords) : 1;
  logic signed [CiLanes-1:0][15:0] crossed, crossed_q, above, above_read, passed_q;
  logic [AboveBits-1:0] place, place_q;
  sample_t sample_q;
  logic sampled_q, again, again_q, ends_q;
  assign place = AboveBits'(32'(pixel_q) * WindowRowWords + 32'(word_q));
  assign again = sampled_q && (place == place_q);
  always_comb begin
    for (int unsigned j = 0; j < CiLanes; j++) begin
      logic signed [7:0] left, right;
      left = bytes_q[32'(word_q)*CiLanes+j];
      right = bytes_q[32'(word_q)*CiLanes+j+1];
      crossed[j] = 16'(18'(left) * (18'sd256 - signed'(18'(right_share_q))) + 18'(right) * signed'(18'(right_share_q)));
    end
  end
  scanline_ram_1r1w #(
      .Words(AboveWords),
      .Parts(1),
      .PartBits(16 * CiLanes)
  ) u_above (
      .clk_i,
      .read_i(issue && !again),
      .read_addr_i(place),
      .read_data_o(above_read),
      .write_i(sampled_q),
      .write_addr_i(place_q),
      .write_data_i(crossed_q)
  );
  assign above = again_q ? passed_q : above_read;
  always_comb begin
    for (int unsigned j = 0; j < CiLanes; j++) begin
      psum_o.data[j] = 32'(signed'(above[j])) * (32'sd256 - signed'(32'(sample_q.lower_share))) +
          32'(signed'(crossed_q[j])) * signed'(32'(sample_q.lower_share));
    end
  end
  assign psum_o.valid = sampled_q && sample_q.below;
  assign psum_o.pixel = sample_q.pixel;
  assign psum_o.word = 12'(sample_q.word);
  assign done_o = psum_done_o && ends_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      low_there_q <= 1'b0;
      row_valid_q <= 1'b0;
      group_q <= '0;
      first_column_q <= '0;
      window_row_q <= '0;
      pixel_q <= '0;
      word_q <= '0;
      set_q <= '0;
      handing_q <= 1'b0;
      sampled_q <= 1'b0;
      psum_done_o <= 1'b0;
    end else begin
      if (entry_take) low_there_q <= 1'b0;
      else if (beat_take) low_there_q <= 1'b1;
      if (entry_take) row_valid_q <= 1'b1;
      else if (row_taken) row_valid_q <= 1'b0;
      if (issue) begin
        word_q <= last_word ? '0 : word_q + 1'b1;
        if (last_word) pixel_q <= last_pixel ? '0 : pixel_q + 1'b1;
        if (last_word && last_pixel) begin
          window_row_q <= last_row ? '0 : window_row_q + 4'd1;
          if (window_row_q != '0) set_q <= set_ends ? '0 : set_q + (SetBits + 1)'(row_words);
          if (last_row) begin
            first_column_q <= last_band ? '0 : first_column_q + columns;
            if (last_band) group_q <= last_group ? '0 : group_q + 16'd1;
          end
          if ((window_row_q != '0) && set_ends) handing_q <= 1'b1;
        end
      end
      if (psum_done_o) handing_q <= 1'b0;
      sampled_q   <= issue;
      psum_done_o <= psum_o.valid && sample_q.last;
    end
  end

  always_ff @(posedge clk_i) begin
    if (beat_take) low_q <= beat;
    if (entry_take) begin
      bytes_q <= bytes;
      right_share_q <= entry.right_share;
      lower_share_q <= entry.lower_share;
    end
    if (issue) begin
      crossed_q <= crossed;
      passed_q <= crossed_q;
      again_q <= again;
      place_q <= place;
      sample_q.below <= window_row_q != '0;
      sample_q.lower_share <= lower_share_q;
      sample_q.pixel <= pixel_q;
      sample_q.word <= set_q + (SetBits + 1)'(word_q);
      sample_q.last <= (window_row_q != '0) && set_ends && last_word && last_pixel;
      sample_q.ends <= last_band && last_row && last_group;
    end
    if (psum_o.valid) ends_q <= sample_q.ends;
  end

  logic unused;
  assign unused = beat_ready ^ (^entry_count) ^ (^beat_count);

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  logic [15:0] check_flying_q;  // beats asked for that have not come
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) check_flying_q <= '0;
    else check_flying_q <= check_flying_q + 16'(read_o.valid && read_ready_i) - 16'(beat_i.valid);
  end
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(BeatFits, !beat_i.valid || stop_i || beat_ready)
      `SCANLINE_ASSERT(BeatAsked, !beat_i.valid || stop_i || (check_flying_q != '0))
      `SCANLINE_ASSERT(BeatsBound, stop_i || (32'(check_flying_q) + 32'(beat_count) <= WindowBeats))
      `SCANLINE_ASSERT(EntryForBeat, !beat_take || entry_valid)
      `SCANLINE_ASSERT(RowOfBytes, !issue || row_valid_q)
      `SCANLINE_ASSERT(PsumsFree, !psum_o.valid || !psum_held_i)
      `SCANLINE_ASSERT(SetBound, 32'(set_q) < SetWords)
      `SCANLINE_ASSERT(PsumInSet, !psum_o.valid || (32'(psum_o.word) < SetWords))
      `SCANLINE_ASSERT(RowCounted, !row_valid_q || (window_row_q <= side))
      `SCANLINE_ASSERT(ColumnCounted, !row_valid_q || (first_column_q < side))
      `SCANLINE_ASSERT(PixelCounted, !row_valid_q || (16'(pixel_q) < left_x))
      `SCANLINE_ASSERT(GroupCounted, !row_valid_q || (group_q < row_i.pixel_groups))
    end
  end
`endif
endmodule
