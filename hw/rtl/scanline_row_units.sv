// The units that make rows beside the array. One of them reads at a time, so that they share the scratchpad's port, the
// memory's, and the way to the requantiser. A unit that streams keeps its rows, two of them, and the front goes on; for the
// others it holds the row until it is done.
module scanline_row_units
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // a row, which stays until it is done, if it is not streamed
    input  logic start_i,
    input  unit_row_t row_i,
    output logic done_o,
    // streamed rows
    output logic stream_ready_o,    // there is room for one
    output logic stream_reading_o,  // of some not all is read
    output logic stream_busy_o,
    output compute_e stream_unit_o,
    output rows_freed_t stream_free_o,
    // scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // memory
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    output window_error_t window_error_o,
    // psums, in sets
    input  logic psum_held_i,
    output psum_write_t psum_o,
    output logic psum_done_o,
    // or in chunks, in the requantiser's order
    output psum_chunk_t chunk_o,
    input  logic chunk_taken_i,
    // events
    output logic beat_o,
    output logic gathered_o
);
  // What each shows the rest of the machine.
  typedef struct packed {
    logic done;
    segment_read_t segment;
    burst_t read;
    window_error_t window_error;
    logic psum_done;
    logic beat;
    logic gathered;
    psum_write_t psum;
  } outputs_t;
  outputs_t samples, windows, norms, shown;
  logic is_sample, is_window, is_norm;
  assign is_norm = row_i.compute == ComputeLayerNorm;
  assign is_window = row_i.compute == ComputeWindow;
  assign is_sample = (row_i.compute == ComputeWarp) || (row_i.compute == ComputeResize);

  if (Sampler) begin : gen_sampler
    // A RESIZE's steps stand where a WARP has the place of its frame in memory.
    sample_row_t row;
    logic resizes;
    assign resizes = row_i.compute == ComputeResize;
    always_comb begin
      row.y = row_i.y;
      row.pixel_groups = row_i.pixel_groups;
      row.width = row_i.width;
      row.words = row_i.words;
      row.frame_x = unsigned'(row_i.x_offset) + (resizes ?
          row_i.payload.resize.x_first << row_i.payload.resize.enlarge_log2 : row_i.payload.warp.x_first);
      row.frame_width = resizes ? row_i.payload.resize.frame_width : row_i.payload.warp.frame_width;
      row.frame_height = row_i.height;
      row.x_first = resizes ? row_i.payload.resize.x_first : row_i.payload.warp.x_first;
      row.window_first = row_i.first_row;
      row.window_end = row_i.end_row;
      row.next_row = row_i.source.next_row;
      row.next_slot = row_i.source.next_slot;
      row.base = row_i.source.base;
      row.rows = row_i.source.rows;
      row.row_pitch = row_i.source.row_pitch;
      row.group_pitch = row_i.source.group_pitch;
      row.source_width = row_i.source.width;
      row.zero_point = row_i.source.zero_point;
      row.flow_address = row_i.operand_address;
      row.flow_x = row_i.operand_x;
      row.flow_width = row_i.operand_width;
      row.address = resizes ? row_i.payload.resize.step_x : row_i.payload.warp.address;
      row.row_stride = resizes ? row_i.payload.resize.step_y : row_i.payload.warp.row_stride;
      row.pixel_pitch = row_i.payload.warp.pixel_pitch;
      row.channels = row_i.payload.warp.channels;
      row.fraction_bits = row_i.payload.warp.fraction_bits;
      row.edge_pixels = row_i.payload.warp.edge_pixels || resizes;
      row.steps = resizes;
      row.wide = resizes && row_i.payload.resize.flow;
    end
    scanline_sampler u_sampler (
        .clk_i,
        .rst_ni,
        .stop_i,
        .memory_bytes_i,
        .start_i(start_i && is_sample),
        .row_i(row),
        .done_o(samples.done),
        .segment_o(samples.segment),
        .segment_grant_i(segment_grant_i && is_sample),
        .segment_data_i,
        .read_o(samples.read),
        .read_ready_i(read_ready_i && is_sample),
        .beat_i('{valid: beat_i.valid && is_sample, data: beat_i.data}),
        .window_error_o(samples.window_error),
        .psum_held_i,
        .psum_o(samples.psum),
        .psum_done_o(samples.psum_done),
        .beat_o(samples.beat),
        .gathered_o(samples.gathered)
    );
  end else begin : gen_no_sampler
    assign samples = '0;
  end

  if (Windows) begin : gen_window
    window_row_t row;
    always_comb begin
      row.y = row_i.y;
      row.pixel_groups = row_i.pixel_groups;
      row.width = row_i.width;
      row.frame_x = row_i.payload.window.x_first;
      row.map_width = row_i.payload.window.map_width;
      row.map_height = row_i.payload.window.map_height;
      row.zero_point = row_i.payload.window.map_zero_point;
      row.flow_address = row_i.source.base +
          16'(slot_of(row_i.y, row_i.source.next_row, row_i.source.next_slot, row_i.source.rows) * row_i.source.row_pitch);
      row.flow_x = row_i.x_offset;
      row.flow_width = row_i.source.width;
      row.address = row_i.payload.window.address;
      row.row_stride = row_i.payload.window.row_stride;
      row.radius = row_i.payload.window.radius[2:0];
      row.level = row_i.payload.window.level[2:0];
      row.fraction_bits = row_i.payload.window.fraction_bits;
    end
    scanline_window u_window (
        .clk_i,
        .rst_ni,
        .stop_i,
        .memory_bytes_i,
        .start_i(start_i && is_window),
        .row_i(row),
        .done_o(windows.done),
        .segment_o(windows.segment),
        .segment_grant_i(segment_grant_i && is_window),
        .segment_data_i,
        .read_o(windows.read),
        .read_ready_i(read_ready_i && is_window),
        .beat_i('{valid: beat_i.valid && is_window, data: beat_i.data}),
        .window_error_o(windows.window_error),
        .psum_held_i,
        .psum_o(windows.psum),
        .psum_done_o(windows.psum_done),
        .beat_o(windows.beat),
        .gathered_o(windows.gathered)
    );
  end else begin : gen_no_window
    assign windows = '0;
  end

  if (LayerNorm) begin : gen_layer_norm
    segment_read_t segment;
    assign norms = '{segment: segment, default: '0};
    scanline_layer_norm u_layer_norm (
        .clk_i,
        .rst_ni,
        .start_i(start_i && is_norm),
        .row_i,
        .ready_o(stream_ready_o),
        .reading_o(stream_reading_o),
        .busy_o(stream_busy_o),
        .free_o(stream_free_o),
        .segment_o(segment),
        .segment_grant_i(segment_grant_i && stream_reading_o),
        .segment_data_i,
        .chunk_o,
        .chunk_taken_i
    );
  end else begin : gen_no_layer_norm
    assign norms = '0;
    assign stream_ready_o = 1'b0;
    assign stream_reading_o = 1'b0;
    assign stream_busy_o = 1'b0;
    assign stream_free_o = '0;
    assign chunk_o = '0;
  end
  assign stream_unit_o = ComputeLayerNorm;

  assign shown = stream_reading_o ? norms : is_window ? windows : samples;
  assign done_o = shown.done;
  assign segment_o = shown.segment;
  assign read_o = shown.read;
  assign window_error_o = shown.window_error;
  assign psum_o = shown.psum;
  assign psum_done_o = shown.psum_done;
  assign beat_o = shown.beat;
  assign gathered_o = shown.gathered;

  // A machine lacks some of the units, and each reads some of a row.
  logic unused;
  assign unused = ^{clk_i, rst_ni, stop_i, memory_bytes_i, start_i, row_i, segment_grant_i, segment_data_i, read_ready_i,
                    beat_i, psum_held_i, chunk_taken_i, is_sample,
                    is_norm};

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(OneWriter, !samples.psum.valid || !windows.psum.valid)
      `SCANLINE_ASSERT(OneSegment, $onehot0({samples.segment.valid, windows.segment.valid, norms.segment.valid}))
      `SCANLINE_ASSERT(OneReader, !samples.read.valid || !windows.read.valid)
      `SCANLINE_ASSERT(StartsBeside, !start_i || is_beside(row_i.compute))
      `SCANLINE_ASSERT(StartsAlone, !start_i || is_streamed(row_i.compute) || !stream_reading_o)
    end
  end
`endif
endmodule
