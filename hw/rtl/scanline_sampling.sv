// The units that sample rows instead of convolving them: the sampler, and where the machine has it the one for windows. One
// of them works at a time, so that they share the scratchpad's port, the memory's and the psum registers.
module scanline_sampling
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    // a row, which stays until it is done
    input  logic start_i,
    input  compute_e compute_i,
    input  sample_row_t row_i,
    input  window_row_t window_row_i,
    output logic done_o,
    // scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // memory
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    output window_error_t window_error_o,
    // psums
    input  logic psum_held_i,
    output psum_write_t psum_o,
    output logic psum_done_o,
    // events
    output logic beat_o,
    output logic gathered_o
);
  // What either shows the rest of the machine.
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
  outputs_t samples, windows, shown;
  logic is_window;
  assign is_window = compute_i == ComputeWindow;

  if (Sampler) begin : gen_sampler
    scanline_sampler u_sampler (
        .clk_i,
        .rst_ni,
        .stop_i,
        .memory_bytes_i,
        .start_i(start_i && !is_window),
        .row_i,
        .done_o(samples.done),
        .segment_o(samples.segment),
        .segment_grant_i(segment_grant_i && !is_window),
        .segment_data_i,
        .read_o(samples.read),
        .read_ready_i(read_ready_i && !is_window),
        .beat_i('{valid: beat_i.valid && !is_window, data: beat_i.data}),
        .window_error_o(samples.window_error),
        .psum_held_i,
        .psum_o(samples.psum),
        .psum_done_o(samples.psum_done),
        .beat_o(samples.beat),
        .gathered_o(samples.gathered)
    );
  end else begin : gen_no_sampler
    assign samples = '{done: 1'b1, default: '0};
    logic unused;
    assign unused = ^{clk_i, rst_ni, stop_i, memory_bytes_i, start_i, row_i, segment_grant_i, segment_data_i, read_ready_i,
                      beat_i, psum_held_i};
  end

  if (Windows) begin : gen_window
    scanline_window u_window (
        .clk_i,
        .rst_ni,
        .stop_i,
        .memory_bytes_i,
        .start_i(start_i && is_window),
        .row_i(window_row_i),
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
    assign windows = '{done: 1'b1, default: '0};
    logic unused_row;
    assign unused_row = ^window_row_i;
  end

  assign shown = is_window ? windows : samples;
  assign done_o = shown.done;
  assign segment_o = shown.segment;
  assign read_o = shown.read;
  assign window_error_o = shown.window_error;
  assign psum_o = shown.psum;
  assign psum_done_o = shown.psum_done;
  assign beat_o = shown.beat;
  assign gathered_o = shown.gathered;

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(OneWriter, !samples.psum.valid || !windows.psum.valid)
      `SCANLINE_ASSERT(OneSegment, !samples.segment.valid || !windows.segment.valid)
      `SCANLINE_ASSERT(OneReader, !samples.read.valid || !windows.read.valid)
      `SCANLINE_ASSERT(StartsSampled, !start_i || is_sampled(compute_i))
    end
  end
`endif
endmodule
