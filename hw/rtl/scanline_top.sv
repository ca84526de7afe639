// Scanline: AXI4 master to memory, AXI4-Lite registers, and the engines between.
module scanline_top
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    output logic interrupt_o,
    // What the engines begin and end in this cycle, for traces: row of a load (or weights), row in the array, row out
    // of the requantiser, row of a store; and whether the array has work.
    output logic [6:0] activity_o,
    // AXI4-Lite
    input  logic s_axil_awvalid,
    output logic s_axil_awready,
    input  logic [9:0] s_axil_awaddr,
    input  logic s_axil_wvalid,
    output logic s_axil_wready,
    input  logic [31:0] s_axil_wdata,
    output logic s_axil_bvalid,
    input  logic s_axil_bready,
    output logic [1:0] s_axil_bresp,
    input  logic s_axil_arvalid,
    output logic s_axil_arready,
    input  logic [9:0] s_axil_araddr,
    output logic s_axil_rvalid,
    input  logic s_axil_rready,
    output logic [31:0] s_axil_rdata,
    output logic [1:0] s_axil_rresp,
    // AXI4
    output logic m_axi_awvalid,
    input  logic m_axi_awready,
    output logic [39:0] m_axi_awaddr,
    output logic [7:0] m_axi_awlen,
    output logic [2:0] m_axi_awsize,
    output logic [1:0] m_axi_awburst,
    output logic m_axi_wvalid,
    input  logic m_axi_wready,
    output logic [BusBits-1:0] m_axi_wdata,
    output logic [BusBytes-1:0] m_axi_wstrb,
    output logic m_axi_wlast,
    input  logic m_axi_bvalid,
    output logic m_axi_bready,
    input  logic [1:0] m_axi_bresp,
    output logic m_axi_arvalid,
    input  logic m_axi_arready,
    output logic [39:0] m_axi_araddr,
    output logic [7:0] m_axi_arlen,
    output logic [2:0] m_axi_arsize,
    output logic [1:0] m_axi_arburst,
    input  logic m_axi_rvalid,
    output logic m_axi_rready,
    input  logic [BusBits-1:0] m_axi_rdata,
    input  logic [1:0] m_axi_rresp,
    input  logic m_axi_rlast
);
  // Start, stop, errors --------------------------------------------------------------------------------------------------
  logic start, clear, starting_q, start_q, busy_q, finishing_q, finished, stop;
  logic engine_rst_nq;  // every start begins from a clean state
  logic [7:0] cause_q;
  logic [31:0] error_address_q;
  logic [39:0] memory_base;
  logic [31:0] memory_bytes, command_address, command_count, write_first, write_end;
  logic [Counters-1:0][63:0] counter_values;
  assign stop = cause_q != CauseNone;

  logic illegal, nesting, read_error, write_error, halted;
  window_error_t load_window_error, store_window_error, sample_window_error;
  logic [31:0] position;
  logic commands_bad;
  assign commands_bad = 40'(command_address) + 40'(command_count) * CommandBytes > 40'(memory_bytes);
  assign write_error = m_axi_bvalid && (m_axi_bresp != 2'b00);

  conv_activity_t conv_activity;
  load_activity_t load_activity;
  logic read_idle, store_busy;
  assign finished = busy_q && finishing_q && (!stop || (read_idle && !store_busy));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      busy_q <= 1'b0;
      start_q <= 1'b0;
      starting_q <= 1'b0;
      finishing_q <= 1'b0;
      engine_rst_nq <= 1'b0;
      cause_q <= CauseNone;
      error_address_q <= '0;
    end else begin
      engine_rst_nq <= !(start || clear);
      starting_q <= start;
      start_q <= starting_q;  // the engines have left their reset
      if (start) begin
        busy_q <= 1'b1;
        finishing_q <= 1'b0;
      end else if (finished) begin
        busy_q <= 1'b0;
      end
      if ((halted || stop) && !start) finishing_q <= 1'b1;
      if (start || clear) begin
        cause_q <= CauseNone;
        error_address_q <= '0;
      end else if (busy_q && !stop) begin
        if (start_q && commands_bad) begin
          cause_q <= CauseReadWindow;
          error_address_q <= command_address;
        end else if (illegal) begin
          cause_q <= CauseIllegalCommand;
          error_address_q <= position;
        end else if (nesting) begin
          cause_q <= CauseLoopNesting;
          error_address_q <= position;
        end else if (load_window_error.valid) begin
          cause_q <= CauseReadWindow;
          error_address_q <= load_window_error.address;
        end else if (sample_window_error.valid) begin
          cause_q <= CauseReadWindow;
          error_address_q <= sample_window_error.address;
        end else if (store_window_error.valid) begin
          cause_q <= CauseWriteWindow;
          error_address_q <= store_window_error.address;
        end else if (read_error) begin
          cause_q <= CauseBusRead;
          error_address_q <= position;
        end else if (write_error) begin
          cause_q <= CauseBusWrite;
          error_address_q <= position;
        end
      end
    end
  end

  scanline_control_registers u_registers (
      .clk_i,
      .rst_ni,
      .awvalid_i(s_axil_awvalid),
      .awready_o(s_axil_awready),
      .awaddr_i(s_axil_awaddr),
      .wvalid_i(s_axil_wvalid),
      .wready_o(s_axil_wready),
      .wdata_i(s_axil_wdata),
      .bvalid_o(s_axil_bvalid),
      .bready_i(s_axil_bready),
      .bresp_o(s_axil_bresp),
      .arvalid_i(s_axil_arvalid),
      .arready_o(s_axil_arready),
      .araddr_i(s_axil_araddr),
      .rvalid_o(s_axil_rvalid),
      .rready_i(s_axil_rready),
      .rdata_o(s_axil_rdata),
      .rresp_o(s_axil_rresp),
      .start_o(start),
      .clear_o(clear),
      .memory_base_o(memory_base),
      .memory_bytes_o(memory_bytes),
      .command_address_o(command_address),
      .command_count_o(command_count),
      .write_first_o(write_first),
      .write_end_o(write_end),
      .busy_i(busy_q),
      .finished_i(finished),
      .error_i(stop),
      .error_cause_i(cause_q),
      .error_address_i(error_address_q),
      .interrupt_o,
      .counters_i(counter_values)
  );

  // Commands -------------------------------------------------------------------------------------------------------------
  burst_t [2:0] reader;
  logic [2:0] reader_ready, reader_data;
  logic set_buffer;
  logic [BufferBits-1:0] set_id;
  buffer_config_t set_config;
  logic load_cmd_valid, load_cmd_ready, load_is_weights, conv_cmd_valid, conv_cmd_ready, store_cmd_valid, store_cmd_ready;
  load_cmd_t load_cmd;
  loadw_cmd_t loadw_cmd;
  compute_cmd_t conv_cmd;
  store_cmd_t store_cmd;
  logic engines_idle, sync, waiting_sync, command_done, sequencer_running;

  scanline_sequencer u_sequencer (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .start_i(start_q),
      .stop_i(stop),
      .command_address_i(command_address),
      .command_count_i(command_count),
      .read_o(reader[0]),
      .read_ready_i(reader_ready[0]),
      .beat_i('{valid: reader_data[0], data: m_axi_rdata}),
      .set_o(set_buffer),
      .set_id_o(set_id),
      .set_config_o(set_config),
      .load_valid_o(load_cmd_valid),
      .load_ready_i(load_cmd_ready),
      .load_is_weights_o(load_is_weights),
      .load_cmd_o(load_cmd),
      .loadw_cmd_o(loadw_cmd),
      .conv_valid_o(conv_cmd_valid),
      .conv_ready_i(conv_cmd_ready),
      .conv_cmd_o(conv_cmd),
      .store_valid_o(store_cmd_valid),
      .store_ready_i(store_cmd_ready),
      .store_cmd_o(store_cmd),
      .engines_idle_i(engines_idle),
      .sync_o(sync),
      .halted_o(halted),
      .running_o(sequencer_running),
      .waiting_sync_o(waiting_sync),
      .command_done_o(command_done),
      .illegal_o(illegal),
      .nesting_o(nesting),
      .position_o(position)
  );

  // Command queues, one per engine.
  localparam int unsigned QueueBits = $clog2(QueueDepth) + 1;
  logic load_q_valid, load_q_ready, conv_q_valid, conv_q_ready, store_q_valid, store_q_ready;
  logic load_q_is_weights;
  load_cmd_t load_q_cmd;
  loadw_cmd_t loadw_q_cmd;
  compute_cmd_t conv_q_cmd;
  store_cmd_t store_q_cmd;
  logic [QueueBits-1:0] load_q_count, conv_q_count, store_q_count;
  scanline_stream_fifo #(
      .Width($bits(load_cmd_t) + $bits(loadw_cmd_t) + 1),
      .Depth(QueueDepth)
  ) u_load_queue (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .valid_i(load_cmd_valid),
      .ready_o(load_cmd_ready),
      .data_i({load_is_weights, load_cmd, loadw_cmd}),
      .valid_o(load_q_valid),
      .ready_i(load_q_ready),
      .data_o({load_q_is_weights, load_q_cmd, loadw_q_cmd}),
      .count_o(load_q_count)
  );
  scanline_stream_fifo #(
      .Width($bits(compute_cmd_t)),
      .Depth(QueueDepth)
  ) u_conv_queue (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .valid_i(conv_cmd_valid),
      .ready_o(conv_cmd_ready),
      .data_i(conv_cmd),
      .valid_o(conv_q_valid),
      .ready_i(conv_q_ready),
      .data_o(conv_q_cmd),
      .count_o(conv_q_count)
  );
  scanline_stream_fifo #(
      .Width($bits(store_cmd_t)),
      .Depth(QueueDepth)
  ) u_store_queue (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .valid_i(store_cmd_valid),
      .ready_o(store_cmd_ready),
      .data_i(store_cmd),
      .valid_o(store_q_valid),
      .ready_i(store_q_ready),
      .data_o(store_q_cmd),
      .count_o(store_q_count)
  );
  assign engines_idle = (load_q_count == '0) && (conv_q_count == '0) && (store_q_count == '0) && !load_activity.busy &&
      !store_busy && !conv_activity.front_busy && !conv_activity.array_busy && !conv_activity.drain_busy;

  // Buffers --------------------------------------------------------------------------------------------------------------
  logic [BufferBits-1:0] load_id, source_id, destination_id, add_id, store_id;
  buffer_view_t load_view, source_view, destination_view, add_view, store_view;
  logic load_claim, conv_claim, store_claim, store_free;
  row_done_t load_done, conv_done;
  rows_freed_t front_free, free_source, free_add;
  logic [15:0] store_free_to;
  scanline_buffer_table u_buffers (
      .clk_i,
      .set_i(set_buffer),
      .set_id_i(set_id),
      .set_config_i(set_config),
      .load_id_i(load_id),
      .load_view_o(load_view),
      .source_id_i(source_id),
      .source_view_o(source_view),
      .destination_id_i(destination_id),
      .destination_view_o(destination_view),
      .add_id_i(add_id),
      .add_view_o(add_view),
      .store_id_i(store_id),
      .store_view_o(store_view),
      .load_claim_i(load_claim),
      .conv_claim_i(conv_claim),
      .load_done_i(load_done),
      .conv_done_i(conv_done),
      .front_free_i(front_free),
      .free_source_i(free_source),
      .free_add_i(free_add),
      .store_claim_i(store_claim),
      .store_free_i(store_free),
      .store_free_to_i(store_free_to)
  );

  // Scratchpad -----------------------------------------------------------------------------------------------------------
  logic segment_grant, load_grant;
  segment_read_t segment, store_segment;
  segment_data_t segment_data;
  drain_write_t drain_write;
  word_write_t load_write;
  logic [BankBits:0] words_read, words_written;
  scanline_scratchpad u_scratchpad (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .store_segment_i(store_segment),
      .conv_segment_i(segment),
      .conv_grant_o(segment_grant),
      .segment_data_o(segment_data),
      .drain_i(drain_write),
      .load_i(load_write),
      .load_grant_o(load_grant),
      .words_read_o(words_read),
      .words_written_o(words_written)
  );

  logic row_begins, weights_done;
  assign activity_o = {
    conv_activity.array_busy || conv_activity.beside,
    store_free,
    store_claim,
    conv_done.valid,
    row_begins,
    load_done.valid || weights_done,
    load_claim || (load_q_valid && load_q_ready && load_q_is_weights)
  };

  // Engines --------------------------------------------------------------------------------------------------------------
  logic element_ready;
  element_t element, stored_element;
  scanline_load_engine u_load (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .stop_i(stop),
      .memory_bytes_i(memory_bytes),
      .cmd_valid_i(load_q_valid),
      .cmd_ready_o(load_q_ready),
      .cmd_is_weights_i(load_q_is_weights),
      .cmd_load_i(load_q_cmd),
      .cmd_weights_i(loadw_q_cmd),
      .buffer_id_o(load_id),
      .buffer_i(load_view),
      .claim_o(load_claim),
      .done_o(load_done),
      .read_o(reader[1]),
      .read_ready_i(reader_ready[1]),
      .beat_i('{valid: reader_data[1], data: m_axi_rdata}),
      .write_o(load_write),
      .write_grant_i(load_grant),
      .element_o(element),
      .element_ready_i(element_ready),
      .weights_done_o(weights_done),
      .window_error_o(load_window_error),
      .activity_o(load_activity)
  );

  // Elements go to the convolution engine's memories; of records, what a normalisation makes of them goes there.
  logic norm_write;
  count_t count;
  logic [23:0] norm_index;
  logic [63:0] norm_data;
  if (Normaliser) begin : gen_statistics
    logic norm_valid, norm_ready, norm_read;
    logic [StatisticAddrBits-1:0] norm_addr;
    statistic_t [CiLanes-1:0] norm_statistics;
    assign norm_valid = element.valid && (element.kind == KindNorm);
    assign element_ready = norm_ready || (element.kind != KindNorm);
    scanline_channel_statistics u_statistics (
        .clk_i,
        .rst_ni(engine_rst_nq),
        .add_i(count),
        .read_i(norm_read),
        .read_addr_i(norm_addr),
        .read_data_o(norm_statistics)
    );
    scanline_normaliser u_normaliser (
        .clk_i,
        .rst_ni(engine_rst_nq),
        .valid_i(norm_valid),
        .ready_o(norm_ready),
        .index_i(element.index),
        .data_i(element.data[63:0]),
        .read_o(norm_read),
        .read_addr_o(norm_addr),
        .statistics_i(norm_statistics),
        .write_o(norm_write),
        .index_o(norm_index),
        .data_o(norm_data)
    );
  end else begin : gen_no_statistics
    assign element_ready = 1'b1;
    assign norm_write = 1'b0;
    assign norm_index = '0;
    assign norm_data = '0;
    logic unused;
    assign unused = ^count;
  end

  always_comb begin
    stored_element = element;
    if (norm_write) begin
      stored_element.valid = 1'b1;
      stored_element.kind = KindParameters;
      stored_element.index = norm_index;
      stored_element.data = BusBits'(norm_data);
    end
  end

  // LOADWs finished since the last SYNC, and whether any is still to come.
  logic [15:0] weights_loaded_q, weights_sent_q;
  always_ff @(posedge clk_i or negedge engine_rst_nq) begin
    if (!engine_rst_nq) begin
      weights_loaded_q <= '0;
      weights_sent_q   <= '0;
    end else if (sync) begin
      weights_loaded_q <= '0;
      weights_sent_q   <= '0;
    end else begin
      if (weights_done) weights_loaded_q <= weights_loaded_q + 16'd1;
      if (load_cmd_valid && load_cmd_ready && load_is_weights) weights_sent_q <= weights_sent_q + 16'd1;
    end
  end

  scanline_conv_engine u_conv (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .cmd_valid_i(conv_q_valid),
      .cmd_ready_o(conv_q_ready),
      .cmd_i(conv_q_cmd),
      .stop_i(stop),
      .memory_bytes_i(memory_bytes),
      .weights_loaded_i(weights_loaded_q),
      .source_id_o(source_id),
      .destination_id_o(destination_id),
      .add_id_o(add_id),
      .source_i(source_view),
      .destination_i(destination_view),
      .add_i(add_view),
      .claim_o(conv_claim),
      .done_o(conv_done),
      .front_free_o(front_free),
      .free_source_o(free_source),
      .free_add_o(free_add),
      .segment_o(segment),
      .segment_grant_i(segment_grant),
      .segment_data_i(segment_data),
      .write_o(drain_write),
      .read_o(reader[2]),
      .read_ready_i(reader_ready[2]),
      .beat_i('{valid: reader_data[2], data: m_axi_rdata}),
      .window_error_o(sample_window_error),
      .element_i(stored_element),
      .activity_o(conv_activity),
      .row_begins_o(row_begins)
  );

  burst_t burst;
  write_beat_t write_beat;
  scanline_store_engine u_store (
      .clk_i,
      .rst_ni(engine_rst_nq),
      .stop_i(stop),
      .write_first_i(write_first),
      .write_end_i(write_end),
      .cmd_valid_i(store_q_valid),
      .cmd_ready_o(store_q_ready),
      .cmd_i(store_q_cmd),
      .buffer_id_o(store_id),
      .buffer_i(store_view),
      .claim_o(store_claim),
      .free_o(store_free),
      .free_to_o(store_free_to),
      .segment_o(store_segment),
      .segment_data_i(segment_data),
      .count_o(count),
      .burst_o(burst),
      .burst_ready_i(m_axi_awready),
      .beat_o(write_beat),
      .beat_ready_i(m_axi_wready),
      .b_valid_i(m_axi_bvalid),
      .busy_o(store_busy),
      .window_error_o(store_window_error)
  );
  assign m_axi_awvalid = burst.valid;
  assign m_axi_awaddr = memory_base + 40'(burst.offset);
  assign m_axi_awlen = burst.len;
  assign m_axi_wvalid = write_beat.valid;
  assign m_axi_wdata = write_beat.data;
  assign m_axi_wstrb = write_beat.strobe;
  assign m_axi_wlast = write_beat.last;
  assign m_axi_awsize = 3'(BusShift);
  assign m_axi_awburst = 2'b01;
  assign m_axi_bready = 1'b1;

  scanline_read_arbiter u_reads (
      .clk_i,
      .rst_ni,
      .memory_base_i(memory_base),
      .read_i(reader),
      .ready_o(reader_ready),
      .data_valid_o(reader_data),
      .idle_o(read_idle),
      .error_o(read_error),
      .ar_valid_o(m_axi_arvalid),
      .ar_ready_i(m_axi_arready),
      .ar_addr_o(m_axi_araddr),
      .ar_len_o(m_axi_arlen),
      .r_valid_i(m_axi_rvalid),
      .r_resp_i(m_axi_rresp),
      .r_last_i(m_axi_rlast)
  );
  assign m_axi_arsize = 3'(BusShift);
  assign m_axi_arburst = 2'b01;
  assign m_axi_rready = 1'b1;

  scanline_counters u_counters (
      .clk_i,
      .rst_ni,
      .clear_i(start || clear),
      .running_i(busy_q),
      .conv_i(conv_activity),
      .load_i(load_activity),
      .store_busy_i(store_busy),
      .waiting_sync_i(waiting_sync),
      .weights_pending_i(weights_loaded_q != weights_sent_q),
      .command_beat_i(reader_data[0]),
      .write_beat_i(m_axi_wvalid && m_axi_wready),
      .words_read_i(words_read),
      .words_written_i(words_written),
      .command_done_i(command_done),
      .counters_o(counter_values)
  );

  logic unused;
  assign unused = sequencer_running;

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(CauseKnown, cause_q <= CauseLoopNesting)
      `SCANLINE_ASSERT(WorksWhenBusy, busy_q || !(halted || illegal || nesting || sync))
      `SCANLINE_ASSERT(WeightsBound, weights_loaded_q <= weights_sent_q)
      `SCANLINE_ASSERT(StopIsBusy, !finished || busy_q)
      `SCANLINE_ASSERT(WriteErrorAnswered, !m_axi_bvalid || busy_q)
    end
  end
`endif
endmodule
