// The front of a WINDOW's row: walks over pixel groups, the bands and rows of their windows, and pixels; finds where in
// its map each pixel's row lies, and asks the memory for the one or two beats that hold it. It runs ahead of the lanes by
// as many beats as they have room for. Of rows that lie wholly beyond the map nothing is asked.
module scanline_window_walker
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // a row, which stays until the lanes have done it
    input  logic start_i,
    input  window_row_t row_i,
    // scratchpad: the flow
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // memory, a beat at a time
    output burst_t read_o,
    input  logic read_ready_i,
    output window_error_t window_error_o,
    input  logic beat_taken_i,  // the lanes have room for one more
    // one entry for each row of a window, in order
    output logic entry_valid_o,
    input  logic entry_ready_i,
    output window_entry_t entry_o
);
  localparam int unsigned CreditBits = $clog2(WindowBeats) + 1;

  typedef enum logic [2:0] {
    Idle,
    Locate,
    Flow,
    FlowArrives,
    Walk
  } state_e;
  state_e state_q;

  // Walk: pixel group, band of columns, row of the window, pixel.
  logic [15:0] group_q, group_x, left_x;
  logic [3:0] first_column_q, side, columns;
  logic [3:0] window_row_q;
  logic [LaneBits-1:0] pixel_q;
  logic last_pixel, last_row, last_band, last_group, advance;
  assign group_x = group_q * 16'(PixelLanes);
  assign left_x = row_i.width - group_x;
  assign side = {row_i.radius, 1'b1};
  assign columns = window_columns(side, first_column_q);
  assign last_pixel = (pixel_q == LaneBits'(PixelLanes - 1)) || (16'(pixel_q) + 16'd1 == left_x);
  assign last_row = window_row_q == side;
  assign last_band = first_column_q + columns == side;
  assign last_group = group_q + 16'd1 == row_i.pixel_groups;

  assign segment_o.valid = state_q == Flow;
  always_comb begin
    segment_o.at.row_valid = 1'b1;
    segment_o.at.edge_pixels = 1'b0;
    segment_o.at.zero_point = '0;
    segment_o.at.address = row_i.flow_address;
    segment_o.at.x = signed'({2'b0, group_x}) + 18'(row_i.flow_x);
    segment_o.at.width = segment_end(segment_o.at.x, 18'(PixelLanes), row_i.flow_width);
  end

  // One multiplier: a map's size, then how far the row of maps lies in memory, then how far the rows of a map do.
  logic [15:0] position, map_bytes_q;
  logic [31:0] pitch, product, group_address_q, pixel_address_q;
  assign product = 32'(48'(position) * 48'(pitch));

  // Where a pixel's window has its middle, in 1/256 of the map's pixels.
  logic signed [15:0] flow_x_q[PixelLanes], flow_y_q[PixelLanes];
  logic signed [33:0] x, y;
  always_comb begin
    logic [3:0] more;
    logic signed [33:0] half;
    more = 4'd8 - row_i.fraction_bits;
    half = (34'sd1 << row_i.level) >>> 1;
    x = 34'(signed'({2'b0, row_i.frame_x + group_x + 16'(pixel_q), 8'b0})) + (34'(flow_x_q[pixel_q]) <<< more);
    y = 34'(signed'({2'b0, row_i.y, 8'b0})) + (34'(flow_y_q[pixel_q]) <<< more);
    x = (x + half) >>> row_i.level;
    y = (y + half) >>> row_i.level;
  end

  // First stage: the first column of the window's row, and its row, in the map.
  typedef struct packed {
    logic signed [26:0] x;
    logic signed [26:0] y;
    logic [3:0] columns;
    logic [7:0] right_share;
    logic [7:0] lower_share;
    logic [31:0] address;  // of the map
  } place_t;
  place_t place_q;
  logic placed_q, place_moves;
  assign advance = (state_q == Walk) && (!placed_q || place_moves);

  // Second stage: which of its pixels the map has, and where they lie.
  logic signed [26:0] map_width, ends;
  logic [4:0] first, past;
  logic row_inside;
  assign map_width = signed'({11'b0, row_i.map_width});
  assign row_inside = (place_q.y >= 0) && (place_q.y < signed'({11'b0, row_i.map_height}));
  always_comb begin
    ends = map_width - place_q.x;
    past = 5'(place_q.columns) + 5'd1;
    first = '0;
    if (place_q.x < 0) first = (-place_q.x > 27'(past)) ? past : 5'(-place_q.x);
    if (ends < 27'(signed'({1'b0, past}))) past = (ends < 0) ? '0 : ends[4:0];
    if (!row_inside) past = '0;
  end
  always_comb begin
    position = place_q.y[15:0];
    pitch = 32'(row_i.map_width);
    if (state_q == Idle && !placed_q) position = row_i.map_height;
    if (state_q == Locate) begin
      position = row_i.y;
      pitch = row_i.row_stride;
    end
  end

  logic [4:0] first_q, past_q;
  logic [7:0] right_share_q, lower_share_q;
  logic [31:0] address_q;  // of the row's first pixel, whether the map has it or not
  logic located_q, pushed;
  assign place_moves = placed_q && (!located_q || pushed);

  // Third stage: its beats.
  logic low, high, low_done_q, need_low, request, room;
  logic [CreditBits-1:0] credits_q;
  assign low = (first_q < past_q) && (32'(address_q[BusShift-1:0]) + 32'(first_q) < BusBytes);
  assign high = (first_q < past_q) && (32'(address_q[BusShift-1:0]) + 32'(past_q) > BusBytes);
  assign need_low = low && !low_done_q;
  assign request = located_q && (need_low || high) && !stop_i;
  assign room = entry_ready_i && (credits_q != '0);
  assign read_o.offset = ((address_q >> BusShift) + 32'(!need_low)) << BusShift;
  assign read_o.len = '0;
  assign window_error_o.valid = request && (33'(read_o.offset) + 33'(BusBytes) > 33'(memory_bytes_i));
  assign window_error_o.address = read_o.offset;
  assign read_o.valid = request && room && !window_error_o.valid;
  // The row is handed on with its last request.
  assign entry_valid_o = located_q && !stop_i &&
      ((need_low || high) ? read_o.valid && read_ready_i && !(need_low && high) : 1'b1);
  assign pushed = entry_valid_o && entry_ready_i;
  always_comb begin
    entry_o.low = low;
    entry_o.high = high;
    entry_o.offset = address_q[BusShift-1:0];
    entry_o.first = first_q;
    entry_o.past = past_q;
    entry_o.right_share = right_share_q;
    entry_o.lower_share = lower_share_q;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= Idle;
      group_q <= '0;
      first_column_q <= '0;
      window_row_q <= '0;
      pixel_q <= '0;
      placed_q <= 1'b0;
      located_q <= 1'b0;
      low_done_q <= 1'b0;
      credits_q <= CreditBits'(WindowBeats);
    end else begin
      unique case (state_q)
        Idle: if (start_i) state_q <= Locate;
        Locate: state_q <= Flow;
        Flow: if (segment_grant_i) state_q <= FlowArrives;
        FlowArrives: state_q <= Walk;
        Walk:
        if (advance) begin
          pixel_q <= last_pixel ? '0 : pixel_q + 1'b1;
          if (last_pixel) begin
            window_row_q <= last_row ? '0 : window_row_q + 4'd1;
            if (last_row) begin
              first_column_q <= last_band ? '0 : first_column_q + columns;
              if (last_band) begin
                group_q <= last_group ? '0 : group_q + 16'd1;
                state_q <= last_group ? Idle : Flow;
              end
            end
          end
        end
        default: state_q <= Idle;
      endcase
      if (!placed_q || place_moves) placed_q <= advance;
      if (!located_q || pushed) located_q <= placed_q;
      if (pushed) low_done_q <= 1'b0;
      else if (read_o.valid && read_ready_i) low_done_q <= 1'b1;
      credits_q <= credits_q - CreditBits'(read_o.valid && read_ready_i) + CreditBits'(beat_taken_i);
    end
  end

  always_ff @(posedge clk_i) begin
    if (state_q == Idle) map_bytes_q <= product[15:0];
    if (state_q == Locate) begin
      group_address_q <= row_i.address + product;
      pixel_address_q <= row_i.address + product;
    end
    if (state_q == FlowArrives) begin
      for (int unsigned p = 0; p < PixelLanes; p++) begin
        // High bytes of both directions, then low ones, which are signed as well.
        flow_x_q[p] <= {segment_data_i[p][7:0], 8'b0} + 16'(signed'(segment_data_i[p][23:16]));
        flow_y_q[p] <= {segment_data_i[p][15:8], 8'b0} + 16'(signed'(segment_data_i[p][31:24]));
      end
    end
    if (advance) begin
      place_q.x <= 27'(signed'(x[33:8])) - signed'({24'b0, row_i.radius}) + signed'({23'b0, first_column_q});
      place_q.y <= 27'(signed'(y[33:8])) - signed'({24'b0, row_i.radius}) + signed'({23'b0, window_row_q});
      place_q.columns <= columns;
      place_q.right_share <= x[7:0];
      place_q.lower_share <= y[7:0];
      place_q.address <= pixel_address_q;
      pixel_address_q <= last_pixel ? group_address_q : pixel_address_q + 32'(map_bytes_q);
      if (last_pixel && last_row && last_band) begin
        group_address_q <= group_address_q + 32'(map_bytes_q) * PixelLanes;
        pixel_address_q <= group_address_q + 32'(map_bytes_q) * PixelLanes;
      end
    end
    if (place_moves) begin
      address_q <= place_q.address + product + 32'(place_q.x);
      first_q <= first;
      past_q <= past;
      right_share_q <= place_q.right_share;
      lower_share_q <= place_q.lower_share;
    end
  end

  logic unused;
  assign unused = ^row_i.zero_point;

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Segment, segment_o.valid, segment_grant_i, segment_o, 1'b0)
  `SCANLINE_HANDSHAKE(Read, read_o.valid, read_ready_i, read_o, stop_i)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, state_q <= Walk)
      `SCANLINE_ASSERT(CreditBound, stop_i || (32'(credits_q) <= WindowBeats))
      `SCANLINE_ASSERT(CreditSpent, !(read_o.valid && read_ready_i) || (credits_q != '0))
      `SCANLINE_ASSERT(ReadInWindow, !read_o.valid || (33'(read_o.offset) + 33'(BusBytes) <= 33'(memory_bytes_i)))
      `SCANLINE_ASSERT(PixelCounted, (state_q == Idle) || (16'(pixel_q) < left_x))
      `SCANLINE_ASSERT(RowCounted, (state_q == Idle) || (window_row_q <= side))
      `SCANLINE_ASSERT(ColumnCounted, (state_q == Idle) || (first_column_q < side))
      `SCANLINE_ASSERT(GroupCounted, (state_q == Idle) || (group_q < row_i.pixel_groups))
      `SCANLINE_ASSERT(FlowHasFractions, (state_q != Flow) || (row_i.fraction_bits <= 4'd8))
      `SCANLINE_ASSERT(BytesInRow, !located_q || (first_q >= past_q) || (32'(past_q) <= WindowLanes + 1))
    end
  end
`endif
endmodule
