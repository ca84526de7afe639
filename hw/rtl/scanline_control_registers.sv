// AXI4-Lite registers: start, status, errors, interrupt, the program's windows, and the counters.
module scanline_control_registers
  import scanline_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // AXI4-Lite
    input  logic awvalid_i,
    output logic awready_o,
    input  logic [9:0] awaddr_i,
    input  logic wvalid_i,
    output logic wready_o,
    input  logic [31:0] wdata_i,
    output logic bvalid_o,
    input  logic bready_i,
    output logic [1:0] bresp_o,
    input  logic arvalid_i,
    output logic arready_o,
    input  logic [9:0] araddr_i,
    output logic rvalid_o,
    input  logic rready_i,
    output logic [31:0] rdata_o,
    output logic [1:0] rresp_o,
    // machine
    output logic start_o,
    output logic clear_o,
    output logic [39:0] memory_base_o,
    output logic [31:0] memory_bytes_o,
    output logic [31:0] command_address_o,
    output logic [31:0] command_count_o,
    output logic [31:0] write_first_o,
    output logic [31:0] write_end_o,
    input  logic busy_i,
    input  logic finished_i,   // pulse
    input  logic error_i,
    input  logic [7:0] error_cause_i,
    input  logic [31:0] error_address_i,
    output logic interrupt_o,
    input  logic [Counters-1:0][63:0] counters_i
);
  logic done_q, interrupt_enable_q, interrupt_q;
  logic write, read;
  assign write = awvalid_i && wvalid_i && !bvalid_o;
  assign awready_o = write;
  assign wready_o = write;
  assign read = arvalid_i && !rvalid_o;
  assign arready_o = read;
  assign bresp_o = 2'b00;
  assign rresp_o = 2'b00;
  assign start_o = write && (awaddr_i == RegControl) && wdata_i[0] && !busy_i;
  assign clear_o = write && (awaddr_i == RegControl) && wdata_i[1] && !busy_i;
  assign interrupt_o = interrupt_q && interrupt_enable_q;

  logic [9:0] counter_offset;
  logic [31:0] value;
  assign counter_offset = araddr_i - 10'(CountersBase);
  always_comb begin
    value = '0;
    unique case (araddr_i)
      RegIdentity: value = 32'h4e41_4353;  // "SCAN"
      RegStatus: value = {29'b0, error_i, done_q, busy_i};
      RegErrorCause: value = {24'b0, error_cause_i};
      RegErrorAddress: value = error_address_i;
      RegInterruptEnable: value = {31'b0, interrupt_enable_q};
      RegInterrupt: value = {31'b0, interrupt_q};
      RegMemoryBaseLow: value = memory_base_o[31:0];
      RegMemoryBaseHigh: value = {24'b0, memory_base_o[39:32]};
      RegMemoryBytes: value = memory_bytes_o;
      RegCommandAddress: value = command_address_o;
      RegCommandCount: value = command_count_o;
      RegWriteFirst: value = write_first_o;
      RegWriteEnd: value = write_end_o;
      default:
      if (araddr_i >= 10'(CountersBase) && 32'(counter_offset) < 8 * Counters) begin
        value = counter_offset[2] ? counters_i[counter_offset[9:3]][63:32] : counters_i[counter_offset[9:3]][31:0];
      end
    endcase
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      bvalid_o <= 1'b0;
      rvalid_o <= 1'b0;
      rdata_o <= '0;
      done_q <= 1'b0;
      interrupt_q <= 1'b0;
      interrupt_enable_q <= 1'b0;
      memory_base_o <= '0;
      memory_bytes_o <= '0;
      command_address_o <= '0;
      command_count_o <= '0;
      write_first_o <= '0;
      write_end_o <= '0;
    end else begin
      if (write) bvalid_o <= 1'b1;
      else if (bready_i) bvalid_o <= 1'b0;
      if (read) begin
        rvalid_o <= 1'b1;
        rdata_o  <= value;
      end else if (rready_i) begin
        rvalid_o <= 1'b0;
      end
      if (write) begin
        unique case (awaddr_i)
          RegInterruptEnable: interrupt_enable_q <= wdata_i[0];
          RegInterrupt: if (wdata_i[0]) interrupt_q <= 1'b0;
          RegMemoryBaseLow: memory_base_o[31:0] <= wdata_i;
          RegMemoryBaseHigh: memory_base_o[39:32] <= wdata_i[7:0];
          RegMemoryBytes: memory_bytes_o <= wdata_i;
          RegCommandAddress: command_address_o <= wdata_i;
          RegCommandCount: command_count_o <= wdata_i;
          RegWriteFirst: write_first_o <= wdata_i;
          RegWriteEnd: write_end_o <= wdata_i;
          default: ;
        endcase
      end
      if (start_o || clear_o) done_q <= 1'b0;
      if (finished_i) begin
        done_q <= 1'b1;
        interrupt_q <= 1'b1;
      end
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Response, bvalid_o, bready_i, bresp_o, 1'b0)
  `SCANLINE_HANDSHAKE(Data, rvalid_o, rready_i, rdata_o, 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StartWhenIdle, !start_o || !busy_i)
      `SCANLINE_ASSERT(ClearWhenIdle, !clear_o || !busy_i)
      `SCANLINE_ASSERT(WriteTogether, awready_o == wready_o)
      `SCANLINE_ASSERT(OneWrite, !awready_o || !bvalid_o)
      `SCANLINE_ASSERT(OneRead, !arready_o || !rvalid_o)
      `SCANLINE_ASSERT(FinishedWasBusy, !finished_i || busy_i)
    end
  end
`endif
endmodule
