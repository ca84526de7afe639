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
    output row_done_t done_o,
    output rows_freed_t front_free_o,
    output rows_freed_t free_source_o,
    output rows_freed_t free_add_o,
    // scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    output drain_write_t write_o,
    // memory, for samples beyond what is on chip
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    output window_error_t window_error_o,
    // elements of a LOADW
    input  element_t element_i,
    // state
    output conv_activity_t activity_o,
    output logic row_begins_o  // a row enters the array
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
    if (element_i.valid && element_i.kind == KindWeights) weight_write[32'(element_i.index)%WeightParts] = 1'b1;
    if (element_i.valid && element_i.kind == KindParameters) begin
      parameter_write[32'(element_i.index)%ParameterParts] = 1'b1;
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
      .write_addr_i(WeightAddrBits'(32'(element_i.base) + 32'(element_i.index) / WeightParts)),
      .write_data_i({WeightParts{element_i.data}})
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
      .write_i(element_i.valid && element_i.kind == KindSteps),
      .write_addr_i(WeightAddrBits'(32'(element_i.base) + 32'(element_i.index))),
      .write_data_i(element_i.data[63:0])
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
      .write_i(element_i.valid && element_i.kind == KindFills),
      .write_addr_i(FillAddrBits'(32'(element_i.base) + 32'(element_i.index))),
      .write_data_i(element_i.data[31:0])
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
      .write_addr_i(ParameterAddrBits'(32'(element_i.base) + 32'(element_i.index) / ParameterParts)),
      .write_data_i({ParameterParts{element_i.data[63:0]}})
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
        .write_i(element_i.valid && element_i.kind == KindTable),
        .write_addr_i(($clog2(Tables * TableBytes))'({element_i.lut, element_i.index[7:0]})),
        .write_data_i(element_i.data[7:0])
    );
  end

  // Front, array, requantiser ------------------------------------------------------------------------------------------
  // The front runs ahead of the array by up to two rows, the array of the requantiser.
  logic row_valid, row_ready;
  logic array_row_ready, array_row_valid, array_row_take, drain_row_ready, drain_row_valid, drain_row_take;
  row_t row, array_row, drain_row;
  logic array_rows_busy, drain_busy;
  logic [1:0] array_rows;
  logic [2:0] drain_rows;
  // A row that a unit beside the array makes passes the array by. If it is streamed, it begins when the rows before it have
  // begun, while the array may still work on the last; else the array must be out of its way. What comes behind streamed
  // rows waits until they are read.
  logic row_beside, row_streamed, stream_ready, stream_reading, stream_busy;
  assign row_beside = is_beside(row.compute);
  assign row_streamed = is_streamed(row.compute);
  always_comb begin
    row_ready = drain_row_ready;
    if (row_streamed) row_ready = row_ready && stream_ready && (array_rows == '0);
    else row_ready = row_ready && !stream_reading && (row_beside ? !array_rows_busy : array_row_ready);
  end
  scanline_stream_fifo #(
      .Width($bits(row_t)),
      .Depth(2)
  ) u_array_rows (
      .clk_i,
      .rst_ni,
      .valid_i(row_valid && row_ready && !row_beside),
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

  logic front_grant, front_x2, add_grant;
  segment_read_t front_segment, add_segment, unit_segment;
  logic [3:0] window_free;
  logic segment_arrives_q, segment_x2_q;

  // The second operand goes before the window: the requantiser must not hold the array up.
  assign segment_o = add_segment.valid ? add_segment : unit_segment.valid ? unit_segment : front_segment;
  assign add_grant = segment_grant_i && add_segment.valid;
  assign front_grant = segment_grant_i && !add_segment.valid && !unit_segment.valid;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      segment_arrives_q <= 1'b0;
      segment_x2_q <= 1'b0;
    end else begin
      segment_arrives_q <= front_grant;
      segment_x2_q <= front_x2;
    end
  end

  logic unit_start, unit_done, unit_psum_done, psum_held;
  unit_row_t unit_row;
  psum_write_t unit_psum;
  psum_chunk_t unit_chunk;
  logic unit_chunk_taken;
  logic front_busy, beside, gather_beat, gathered, issue, wait_segment, wait_psum;
  compute_e stream_unit;
  rows_freed_t stream_free, front_free;
  wait_e front_wait;
  logic [15:0] values;
  scanline_row_units u_row_units (
      .clk_i,
      .rst_ni,
      .stop_i,
      .memory_bytes_i,
      .start_i(unit_start),
      .row_i(unit_row),
      .done_o(unit_done),
      .stream_ready_o(stream_ready),
      .stream_reading_o(stream_reading),
      .stream_busy_o(stream_busy),
      .stream_unit_o(stream_unit),
      .stream_free_o(stream_free),
      .segment_o(unit_segment),
      .segment_grant_i(segment_grant_i && !add_segment.valid && unit_segment.valid),
      .segment_data_i,
      .read_o,
      .read_ready_i,
      .beat_i,
      .window_error_o,
      .psum_held_i(psum_held),
      .psum_o(unit_psum),
      .psum_done_o(unit_psum_done),
      .chunk_o(unit_chunk),
      .chunk_taken_i(unit_chunk_taken),
      .beat_o(gather_beat),
      .gathered_o(gathered)
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
      .unit_start_o(unit_start),
      .unit_row_o(unit_row),
      .unit_done_i(unit_done),
      .beside_o(beside),
      .free_o(front_free),
      .fill_read_o(fill_read),
      .fill_addr_o(fill_addr),
      .fill_word_i(fill_raw[$bits(fill_word_t)-1:0]),
      .segment_o(front_segment),
      .segment_grant_i(front_grant),
      .segment_x2_o(front_x2),
      .window_free_i(window_free),
      .behind_busy_i(array_rows_busy || drain_busy),
      .busy_o(front_busy),
      .wait_o(front_wait)
  );

  // The front has nothing to free in the cycles after a stream's last read: a row behind it begins only then.
  assign front_free_o = front_free.valid ? front_free : stream_free;

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
      .unit_psum_i(unit_psum),
      .psum_free_i(psum_free),
      .psum_o(psum),
      .busy_o(array_busy),
      .issue_o(issue),
      .wait_segment_o(wait_segment),
      .wait_psum_o(wait_psum)
  );

  assign array_rows_busy = array_busy || (array_rows != '0);
  assign row_begins_o = (array_row_valid && array_row_take) || unit_start;

  logic requantiser_busy;
  scanline_requantiser u_requantiser (
      .clk_i,
      .rst_ni,
      .row_valid_i(drain_row_valid),
      .row_ready_o(drain_row_take),
      .row_i(drain_row),
      .psum_valid_i(psum_valid || unit_psum_done),
      .psum_held_o(psum_held),
      .psum_free_o(psum_free),
      .psum_i(psum),
      .chunk_i(unit_chunk),
      .chunk_taken_o(unit_chunk_taken),
      .parameter_read_o(parameter_read),
      .parameter_addr_o(parameter_addr),
      .parameter_i(channel_parameters),
      .table_read_o(table_read),
      .table_addr_o(table_addr),
      .table_data_i(table_data),
      .segment_o(add_segment),
      .segment_grant_i(add_grant),
      .segment_data_i,
      .write_o,
      .done_o,
      .free_source_o,
      .free_add_o,
      .busy_o(requantiser_busy),
      .values_o(values)
  );
  assign drain_busy = requantiser_busy || (drain_rows != '0);
  assign activity_o = '{
    front_wait: front_wait,
    front_busy: front_busy,
    array_busy: array_rows_busy,
    issue: issue,
    wait_segment: wait_segment,
    wait_psum: wait_psum,
    beside: beside || stream_busy,
    unit: beside ? unit_row.compute : stream_unit,
    drain_busy: drain_busy,
    gather_beat: gather_beat,
    gathered: gathered,
    values: values
  };

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(OneGrant, $onehot0({add_grant, segment_grant_i && !add_segment.valid &&
          unit_segment.valid, front_grant}))
      `SCANLINE_ASSERT(GrantAsked, !segment_grant_i || segment_o.valid)
      `SCANLINE_ASSERT(KindKnown, !element_i.valid || (element_i.kind <= KindNorm))
      `SCANLINE_ASSERT(WeightInMemory, (weight_write == '0) ||
          (32'(element_i.base) + 32'(element_i.index) / WeightParts < WeightWords))
      `SCANLINE_ASSERT(StepInMemory, !(element_i.valid && element_i.kind == KindSteps) ||
          (32'(element_i.base) + 32'(element_i.index) < WeightWords))
      `SCANLINE_ASSERT(FillInMemory, !(element_i.valid && element_i.kind == KindFills) ||
          (32'(element_i.base) + 32'(element_i.index) < FillWords))
      `SCANLINE_ASSERT(ParameterInMemory, (parameter_write == '0) ||
          (32'(element_i.base) + 32'(element_i.index) / ParameterParts < ParameterWords))
      `SCANLINE_ASSERT(TableInMemory, !(element_i.valid && element_i.kind == KindTable) ||
          ((32'(element_i.lut) < Tables) && (32'(element_i.index) < TableBytes)))
      `SCANLINE_ASSERT(ArrayBehindDrain, array_rows <= 2'(drain_rows) || (drain_rows > 3'd2))
      `SCANLINE_ASSERT(UnitRowAlone, !(row_valid && row_ready && row_beside && !row_streamed) || !array_rows_busy)
      `SCANLINE_ASSERT(OneFrees, !front_free.valid || !stream_free.valid)
      `SCANLINE_ASSERT(RowsBeginInOrder, !unit_start || (array_rows == '0))
    end
  end
`endif
endmodule
