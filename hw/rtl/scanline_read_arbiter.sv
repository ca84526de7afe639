// Readers share the AXI read channels: commands first, then the load engine, then the sampler. Data returns in order of
// request.
module scanline_read_arbiter
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic [39:0] memory_base_i,
    input  burst_t [2:0] read_i,
    output logic [2:0] ready_o,
    output logic [2:0] data_valid_o,
    output logic idle_o,
    output logic error_o,
    // AXI
    output logic ar_valid_o,
    input  logic ar_ready_i,
    output logic [39:0] ar_addr_o,
    output logic [7:0] ar_len_o,
    input  logic r_valid_i,
    input  logic [1:0] r_resp_i,
    input  logic r_last_i
);
  // A request, once offered on AXI, stays until it is taken, even when its reader is stopped meanwhile.
  logic held_q;
  logic [1:0] held_who_q, who;
  logic [39:0] held_addr_q;
  logic [7:0] held_len_q;
  assign who = held_q ? held_who_q : read_i[0].valid ? 2'd0 : (!Sampler || read_i[1].valid) ? 2'd1 : 2'd2;
  logic order_ready, order_valid;
  logic [1:0] order_who;
  logic [$clog2(ReadsInFlight):0] order_count;
  assign ar_valid_o = held_q || (read_i[who].valid && order_ready);
  assign ar_addr_o = held_q ? held_addr_q : memory_base_i + 40'(read_i[who].offset);
  assign ar_len_o = held_q ? held_len_q : read_i[who].len;
  always_comb begin
    ready_o = '0;
    ready_o[who] = ar_ready_i && order_ready;
  end
  scanline_stream_fifo #(
      .Width(2),
      .Depth(ReadsInFlight)
  ) u_order (
      .clk_i,
      .rst_ni,
      .valid_i(ar_valid_o && ar_ready_i),
      .ready_o(order_ready),
      .data_i(who),
      .valid_o(order_valid),
      .ready_i(r_valid_i && r_last_i),
      .data_o(order_who),
      .count_o(order_count)
  );
  always_comb begin
    data_valid_o = '0;
    data_valid_o[order_who] = r_valid_i && order_valid;
  end
  assign idle_o  = (order_count == '0) && !ar_valid_o;
  assign error_o = r_valid_i && (r_resp_i != 2'b00);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      held_q <= 1'b0;
      held_who_q <= '0;
    end else begin
      held_q <= ar_valid_o && !ar_ready_i;
      held_who_q <= who;
    end
  end
  always_ff @(posedge clk_i) begin
    held_addr_q <= ar_addr_o;
    held_len_q  <= ar_len_o;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Address, ar_valid_o, ar_ready_i, ({ar_addr_o, ar_len_o}), 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(OneReady, $onehot0(ready_o))
      `SCANLINE_ASSERT(GrantAsked, !ar_valid_o || !ar_ready_i || held_q || read_i[who].valid)
      `SCANLINE_ASSERT(ReaderExists, who != 2'd3)
      `SCANLINE_ASSERT(OneReceiver, $onehot0(data_valid_o))
      `SCANLINE_ASSERT(DataAsked, !r_valid_i || order_valid)
      `SCANLINE_ASSERT(BurstInPage, !ar_valid_o || (32'(ar_addr_o[11:0]) + (32'(ar_len_o) + 32'd1) * BusBytes <= 32'd4096))
    end
  end
`endif
endmodule
