// A first-word-fall-through FIFO. It does not pass data through in the cycle it arrives.
module scanline_stream_fifo #(
    parameter int unsigned Width = 8,
    parameter int unsigned Depth = 4,  // power of two
    localparam int unsigned PtrBits = (Depth > 1) ? $clog2(Depth) : 1
) (
    input  logic               clk_i,
    input  logic               rst_ni,
    input  logic               valid_i,
    output logic               ready_o,
    input  logic [Width-1:0]   data_i,
    output logic               valid_o,
    input  logic               ready_i,
    output logic [Width-1:0]   data_o,
    output logic [PtrBits:0]   count_o
);
  logic [Width-1:0] mem[Depth];
  logic [PtrBits-1:0] head_q, tail_q;
  logic [PtrBits:0] count_q;

  assign ready_o = count_q != (PtrBits + 1)'(Depth);
  assign valid_o = count_q != '0;
  assign data_o  = mem[head_q];
  assign count_o = count_q;

  wire push = valid_i && ready_o;
  wire pop = valid_o && ready_i;

  always_ff @(posedge clk_i) begin
    if (push) mem[tail_q] <= data_i;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      head_q  <= '0;
      tail_q  <= '0;
      count_q <= '0;
    end else begin
      if (push) tail_q <= tail_q + 1'b1;
      if (pop) head_q <= head_q + 1'b1;
      count_q <= count_q + (PtrBits + 1)'(push) - (PtrBits + 1)'(pop);
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(NoOverflow, !push || (32'(count_q) < Depth))
      `SCANLINE_ASSERT(NoUnderflow, !pop || (count_q != '0))
      `SCANLINE_ASSERT(CountBound, 32'(count_q) <= Depth)
      `SCANLINE_ASSERT(PointersApart, PtrBits'(tail_q - head_q) == count_q[PtrBits-1:0])
    end
  end
`endif
endmodule
