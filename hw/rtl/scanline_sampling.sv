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
    output logic segment_read_o,
    output segment_request_t segment_o,
    input  logic segment_grant_i,
    input  logic [Banks-1:0][WordBits-1:0] segment_data_i,
    // memory
    output logic ar_valid_o,
    input  logic ar_ready_i,
    output logic [31:0] ar_offset_o,
    input  logic r_valid_i,
    input  logic [BusBits-1:0] r_data_i,
    output logic window_error_o,
    output logic [31:0] window_address_o,
    // psums
    input  logic psum_held_i,
    output logic write_o,
    output logic [LaneBits-1:0] write_pixel_o,
    output logic [11:0] write_word_o,
    output logic [CiLanes-1:0][31:0] write_data_o,
    output logic psum_done_o,
    // events
    output logic beat_o,
    output logic gathered_o
);
  // What either shows the rest of the machine.
  typedef struct packed {
    logic done;
    logic segment_read;
    segment_request_t segment;
    logic ar_valid;
    logic [31:0] ar_offset;
    logic window_error;
    logic [31:0] window_address;
    logic write;
    logic [LaneBits-1:0] write_pixel;
    logic [11:0] write_word;
    logic [CiLanes-1:0][31:0] write_data;
    logic psum_done;
    logic beat;
    logic gathered;
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
        .segment_read_o(samples.segment_read),
        .segment_o(samples.segment),
        .segment_grant_i(segment_grant_i && !is_window),
        .segment_data_i,
        .ar_valid_o(samples.ar_valid),
        .ar_ready_i(ar_ready_i && !is_window),
        .ar_offset_o(samples.ar_offset),
        .r_valid_i(r_valid_i && !is_window),
        .r_data_i,
        .window_error_o(samples.window_error),
        .window_address_o(samples.window_address),
        .psum_held_i,
        .write_o(samples.write),
        .write_pixel_o(samples.write_pixel),
        .write_word_o(samples.write_word),
        .write_data_o(samples.write_data),
        .psum_done_o(samples.psum_done),
        .beat_o(samples.beat),
        .gathered_o(samples.gathered)
    );
  end else begin : gen_no_sampler
    assign samples = '{done: 1'b1, default: '0};
    logic unused;
    assign unused = ^{clk_i, rst_ni, stop_i, memory_bytes_i, start_i, row_i, segment_grant_i, segment_data_i, ar_ready_i,
                      r_valid_i, r_data_i, psum_held_i};
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
        .segment_read_o(windows.segment_read),
        .segment_o(windows.segment),
        .segment_grant_i(segment_grant_i && is_window),
        .segment_data_i,
        .ar_valid_o(windows.ar_valid),
        .ar_ready_i(ar_ready_i && is_window),
        .ar_offset_o(windows.ar_offset),
        .r_valid_i(r_valid_i && is_window),
        .r_data_i,
        .window_error_o(windows.window_error),
        .window_address_o(windows.window_address),
        .psum_held_i,
        .write_o(windows.write),
        .write_pixel_o(windows.write_pixel),
        .write_word_o(windows.write_word),
        .write_data_o(windows.write_data),
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
  assign segment_read_o = shown.segment_read;
  assign segment_o = shown.segment;
  assign ar_valid_o = shown.ar_valid;
  assign ar_offset_o = shown.ar_offset;
  assign window_error_o = shown.window_error;
  assign window_address_o = shown.window_address;
  assign write_o = shown.write;
  assign write_pixel_o = shown.write_pixel;
  assign write_word_o = shown.write_word;
  assign write_data_o = shown.write_data;
  assign psum_done_o = shown.psum_done;
  assign beat_o = shown.beat;
  assign gathered_o = shown.gathered;
endmodule
