// The convolution engine: front, array and requantiser with the memories they read.
module scanline_conv_engine
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic cmd_valid_i,
    output logic cmd_ready_o,
    input  compute_cmd_t cmd_i,
    input  logic stop_i,
    input  logic [31:0] memory_bytes_i,
    input  logic [15:0] weights_loaded_i,
    // buffers
    output logic [BufferBits-1:0] source_id_o,
    output logic [BufferBits-1:0] destination_id_o,
    output logic [BufferBits-1:0] add_id_o,
    input  buffer_view_t source_i,
    input  buffer_view_t destination_i,
    input  buffer_view_t add_i,
    output logic claim_o,
    output logic done_o,
    output logic [BufferBits-1:0] done_id_o,
    output logic front_free_o,
    output logic [BufferBits-1:0] front_free_id_o,
    output logic [15:0] front_free_to_o,
    output logic free_source_o,
    output logic [BufferBits-1:0] free_source_id_o,
    output logic [15:0] free_source_to_o,
    output logic free_add_o,
    output logic [BufferBits-1:0] free_add_id_o,
    output logic [15:0] free_add_to_o,
    // scratchpad
    output logic segment_read_o,
    output segment_request_t segment_o,
    input  logic segment_grant_i,
    input  logic [Banks-1:0][WordBits-1:0] segment_data_i,
    output logic write_o,
    output logic [15:0] write_address_o,
    output logic [15:0] write_x_o,
    output logic [RequantPixels-1:0] write_mask_o,
    output logic [RequantPixels-1:0][WordBits-1:0] write_data_o,
    // memory, for samples beyond what is on chip
    output logic ar_valid_o,
    input  logic ar_ready_i,
    output logic [31:0] ar_offset_o,
    input  logic r_valid_i,
    input  logic [BusBits-1:0] r_data_i,
    output logic window_error_o,
    output logic [31:0] window_address_o,
    // elements of a LOADW
    input  logic element_valid_i,
    input  logic [2:0] element_kind_i,
    input  logic [3:0] element_table_i,
    input  logic [23:0] element_index_i,
    input  logic [15:0] element_base_i,
    input  logic [BusBits-1:0] element_data_i,
    // state
    output logic front_busy_o,
    output wait_e front_wait_o,
    output logic array_busy_o,
    output logic row_begins_o,  // a row enters the array
    output logic sampling_o,
    output logic gather_beat_o,
    output logic gathered_o,
    output logic issue_o,
    output logic wait_segment_o,
    output logic wait_psum_o,
    output logic drain_busy_o,
    output logic [15:0] values_o
);
  // Memories -----------------------------------------------------------------------------------------------------------
  localparam int unsigned WeightParts = WeightWordBits / BusBits;
  localparam int unsigned ParameterParts = CiLanes * 2;
  localparam int unsigned Lanes = RequantPixels * CiLanes;

  logic weight_read;
  logic [WeightAddrBits-1:0] weight_addr;
  logic [WeightParts-1:0][BusBits-1:0] weight_raw;
  logic [WeightParts-1:0] weight_write;
  logic [63:0] step_raw;
  logic fill_read;
  logic [FillAddrBits-1:0] fill_addr;
  logic [31:0] fill_raw;
  logic parameter_read;
  logic [ParameterAddrBits-1:0] parameter_addr;
  logic [CiLanes-1:0][127:0] parameter_raw;
  logic [ParameterParts-1:0] parameter_write;
  parameter_t [CiLanes-1:0] channel_parameters;
  logic table_read;
  logic [Lanes-1:0][TableBits+7:0] table_addr;
  logic [Lanes-1:0][7:0] table_data;

  always_comb begin
    weight_write = '0;
    parameter_write = '0;
    if (element_valid_i && element_kind_i == KindWeights) weight_write[32'(element_index_i)%WeightParts] = 1'b1;
    if (element_valid_i && element_kind_i == KindParameters) begin
      parameter_write[32'(element_index_i)%ParameterParts] = 1'b1;
    end
    for (int unsigned j = 0; j < CiLanes; j++) channel_parameters[j] = parameter_raw[j][$bits(parameter_t)-1:0];
  end
  scanline_ram_1r1w #(
      .Words(WeightWords),
      .Parts(WeightParts),
      .PartBits(BusBits)
  ) u_weights (
      .clk_i,
      .read_i(weight_read),
      .read_addr_i(weight_addr),
      .read_data_o(weight_raw),
      .write_i(weight_write),
      .write_addr_i(WeightAddrBits'(32'(element_base_i) + 32'(element_index_i) / WeightParts)),
      .write_data_i({WeightParts{element_data_i}})
  );
  scanline_ram_1r1w #(
      .Words(WeightWords),
      .Parts(1),
      .PartBits(64)
  ) u_steps (
      .clk_i,
      .read_i(weight_read),
      .read_addr_i(weight_addr),
      .read_data_o(step_raw),
      .write_i(element_valid_i && element_kind_i == KindSteps),
      .write_addr_i(WeightAddrBits'(32'(element_base_i) + 32'(element_index_i))),
      .write_data_i(element_data_i[63:0])
  );
  scanline_ram_1r1w #(
      .Words(FillWords),
      .Parts(1),
      .PartBits(32)
  ) u_fills (
      .clk_i,
      .read_i(fill_read),
      .read_addr_i(fill_addr),
      .read_data_o(fill_raw),
      .write_i(element_valid_i && element_kind_i == KindFills),
      .write_addr_i(FillAddrBits'(32'(element_base_i) + 32'(element_index_i))),
      .write_data_i(element_data_i[31:0])
  );
  scanline_ram_1r1w #(
      .Words(ParameterWords),
      .Parts(ParameterParts),
      .PartBits(64)
  ) u_parameters (
      .clk_i,
      .read_i(parameter_read),
      .read_addr_i(parameter_addr),
      .read_data_o(parameter_raw),
      .write_i(parameter_write),
      .write_addr_i(ParameterAddrBits'(32'(element_base_i) + 32'(element_index_i) / ParameterParts)),
      .write_data_i({ParameterParts{element_data_i[63:0]}})
  );
  for (genvar l = 0; l < Lanes; l++) begin : gen_table
    scanline_ram_1r1w #(
        .Words(Tables * TableBytes),
        .Parts(1),
        .PartBits(8)
    ) u_table (
        .clk_i,
        .read_i(table_read),
        .read_addr_i(($clog2(Tables * TableBytes))'(table_addr[l])),
        .read_data_o(table_data[l]),
        .write_i(element_valid_i && element_kind_i == KindTable),
        .write_addr_i(($clog2(Tables * TableBytes))'({element_table_i, element_index_i[7:0]})),
        .write_data_i(element_data_i[7:0])
    );
  end

  // Front, array, requantiser ------------------------------------------------------------------------------------------
  // The front runs ahead of the array by up to two rows, the array of the requantiser.
  logic row_valid, row_ready;
  logic array_row_ready, array_row_valid, array_row_take, drain_row_ready, drain_row_valid, drain_row_take;
  row_t row, array_row, drain_row;
  logic [1:0] array_rows;
  logic [2:0] drain_rows;
  // A sampled row passes the array by, which must be out of its way.
  logic row_sampled;
  assign row_sampled = is_sampled(row.compute);
  assign row_ready = drain_row_ready && (row_sampled ? !array_busy_o : array_row_ready);
  scanline_stream_fifo #(
      .Width($bits(row_t)),
      .Depth(2)
  ) u_array_rows (
      .clk_i,
      .rst_ni,
      .valid_i(row_valid && row_ready && !row_sampled),
      .ready_o(array_row_ready),
      .data_i(row),
      .valid_o(array_row_valid),
      .ready_i(array_row_take),
      .data_o(array_row),
      .count_o(array_rows)
  );
  scanline_stream_fifo #(
      .Width($bits(row_t)),
      .Depth(4)
  ) u_drain_rows (
      .clk_i,
      .rst_ni,
      .valid_i(row_valid && row_ready),
      .ready_o(drain_row_ready),
      .data_i(row),
      .valid_o(drain_row_valid),
      .ready_i(drain_row_take),
      .data_o(drain_row),
      .count_o(drain_rows)
  );

  logic front_read, front_grant, front_x2, add_read, add_grant;
  segment_request_t front_segment, add_segment;
  logic [3:0] window_free;
  logic segment_arrives_q, segment_x2_q;

  // The second operand goes before the window: the requantiser must not hold the array up.
  logic sample_read;
  segment_request_t sample_segment;
  assign segment_read_o = front_read || add_read || sample_read;
  assign segment_o = add_read ? add_segment : sample_read ? sample_segment : front_segment;
  assign add_grant = segment_grant_i && add_read;
  assign front_grant = segment_grant_i && !add_read && !sample_read;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      segment_arrives_q <= 1'b0;
      segment_x2_q <= 1'b0;
    end else begin
      segment_arrives_q <= front_grant;
      segment_x2_q <= front_x2;
    end
  end

  logic sample_start, sample_done, sample_write, sample_psum_done, psum_held;
  sample_row_t sample_row;
  window_row_t window_row;
  logic [LaneBits-1:0] sample_pixel;
  logic [11:0] sample_word;
  logic [CiLanes-1:0][31:0] sample_data;
  scanline_sampling u_sampling (
      .clk_i,
      .rst_ni,
      .stop_i,
      .memory_bytes_i,
      .start_i(sample_start),
      .compute_i(row.compute),
      .row_i(sample_row),
      .window_row_i(window_row),
      .done_o(sample_done),
      .segment_read_o(sample_read),
      .segment_o(sample_segment),
      .segment_grant_i(segment_grant_i && !add_read && sample_read),
      .segment_data_i,
      .ar_valid_o,
      .ar_ready_i,
      .ar_offset_o,
      .r_valid_i,
      .r_data_i,
      .window_error_o,
      .window_address_o,
      .psum_held_i(psum_held),
      .write_o(sample_write),
      .write_pixel_o(sample_pixel),
      .write_word_o(sample_word),
      .write_data_o(sample_data),
      .psum_done_o(sample_psum_done),
      .beat_o(gather_beat_o),
      .gathered_o
  );

  scanline_conv_front u_front (
      .clk_i,
      .rst_ni,
      .cmd_valid_i,
      .cmd_ready_o,
      .cmd_i,
      .source_id_o,
      .destination_id_o,
      .add_id_o,
      .source_i,
      .destination_i,
      .add_i,
      .claim_o,
      .weights_loaded_i,
      .row_valid_o(row_valid),
      .row_ready_i(row_ready),
      .row_o(row),
      .sample_start_o(sample_start),
      .sample_row_o(sample_row),
      .window_row_o(window_row),
      .sample_done_i(sample_done),
      .sampling_o,
      .free_o(front_free_o),
      .free_id_o(front_free_id_o),
      .free_to_o(front_free_to_o),
      .fill_read_o(fill_read),
      .fill_addr_o(fill_addr),
      .fill_word_i(fill_raw[$bits(fill_word_t)-1:0]),
      .segment_read_o(front_read),
      .segment_o(front_segment),
      .segment_grant_i(front_grant),
      .segment_x2_o(front_x2),
      .window_free_i(window_free),
      .behind_busy_i(array_busy_o || drain_busy_o),
      .busy_o(front_busy_o),
      .wait_o(front_wait_o)
  );

  logic psum_valid, psum_free, array_busy;
  logic [PixelLanes-1:0][CoLanes-1:0][31:0] psum;
  scanline_conv_array u_array (
      .clk_i,
      .rst_ni,
      .row_valid_i(array_row_valid),
      .row_ready_o(array_row_take),
      .row_i(array_row),
      .segment_valid_i(segment_arrives_q),
      .segment_x2_i(segment_x2_q),
      .segment_data_i,
      .segment_granted_i(front_grant),
      .window_free_o(window_free),
      .weight_read_o(weight_read),
      .weight_addr_o(weight_addr),
      .weight_word_i(weight_raw),
      .step_word_i(step_raw[$bits(step_word_t)-1:0]),
      .psum_valid_o(psum_valid),
      .sample_write_i(sample_write),
      .sample_pixel_i(sample_pixel),
      .sample_word_i(sample_word),
      .sample_data_i(sample_data),
      .psum_free_i(psum_free),
      .psum_o(psum),
      .busy_o(array_busy),
      .issue_o,
      .wait_segment_o,
      .wait_psum_o
  );

  assign array_busy_o = array_busy || (array_rows != '0);
  assign row_begins_o = (array_row_valid && array_row_take) || sample_start;

  logic requantiser_busy;
  scanline_requantiser u_requantiser (
      .clk_i,
      .rst_ni,
      .row_valid_i(drain_row_valid),
      .row_ready_o(drain_row_take),
      .row_i(drain_row),
      .psum_valid_i(psum_valid || sample_psum_done),
      .psum_held_o(psum_held),
      .psum_free_o(psum_free),
      .psum_i(psum),
      .parameter_read_o(parameter_read),
      .parameter_addr_o(parameter_addr),
      .parameter_i(channel_parameters),
      .table_read_o(table_read),
      .table_addr_o(table_addr),
      .table_data_i(table_data),
      .segment_read_o(add_read),
      .segment_o(add_segment),
      .segment_grant_i(add_grant),
      .segment_data_i,
      .write_o,
      .write_address_o,
      .write_x_o,
      .write_mask_o,
      .write_data_o,
      .done_o,
      .done_id_o,
      .free_source_o,
      .free_source_id_o,
      .free_source_to_o,
      .free_add_o,
      .free_add_id_o,
      .free_add_to_o,
      .busy_o(requantiser_busy),
      .values_o
  );
  assign drain_busy_o = requantiser_busy || (drain_rows != '0);
endmodule
