// Of every channel that a STORE counts, the sum of its codes and of their squares; a word a cycle, of CiLanes channels.
// Words may repeat at once. What is read for a NORM is defined when nothing is added meanwhile.
module scanline_channel_statistics
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  count_t add_i,
    // a word, one cycle after the read
    input  logic read_i,
    input  logic [StatisticAddrBits-1:0] read_addr_i,
    output statistic_t [CiLanes-1:0] read_data_o
);
  localparam int unsigned SquareBits = 15;

  // Codes and their squares wait for what was there (sum), the result is written a cycle later (write); in the cycle
  // after that a read that was asked for meanwhile still has the old word (written).
  logic sum_q, sum_begins_q, write_q, written_q;
  logic [StatisticAddrBits-1:0] sum_addr_q, write_addr_q, written_addr_q;
  logic [CiLanes-1:0][7:0] code_q;
  logic [CiLanes-1:0][SquareBits-1:0] square_q;
  statistic_t [CiLanes-1:0] ram_data, old, sum, write_data_q, written_data_q;

  logic ram_read, overtaken;
  logic [StatisticAddrBits-1:0] ram_addr;
  assign ram_addr = add_i.valid ? add_i.addr : read_addr_i;
  assign overtaken = write_q && (write_addr_q == ram_addr);  // read and written at once: undefined, and not needed
  assign ram_read = (add_i.valid && !overtaken) || read_i;
  scanline_ram_1r1w #(
      .Words(StatisticWords),
      .Parts(1),
      .PartBits(CiLanes * $bits(statistic_t))
  ) u_sums (
      .clk_i,
      .read_i(ram_read),
      .read_addr_i(ram_addr),
      .read_data_o(ram_data),
      .write_i(write_q),
      .write_addr_i(write_addr_q),
      .write_data_i(write_data_q)
  );
  assign read_data_o = ram_data;

  always_comb begin
    old = ram_data;
    if (written_q && (written_addr_q == sum_addr_q)) old = written_data_q;
    if (write_q && (write_addr_q == sum_addr_q)) old = write_data_q;
    if (sum_begins_q) old = '0;
    for (int unsigned j = 0; j < CiLanes; j++) begin
      sum[j].total = old[j].total + $bits(old[j].total)'(signed'(code_q[j]));
      sum[j].squares = old[j].squares + $bits(old[j].squares)'(square_q[j]);
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      sum_q <= 1'b0;
      write_q <= 1'b0;
      written_q <= 1'b0;
    end else begin
      sum_q <= add_i.valid;
      write_q <= sum_q;
      written_q <= write_q;
    end
  end

  always_ff @(posedge clk_i) begin
    if (add_i.valid) begin
      sum_begins_q <= add_i.begins;
      sum_addr_q <= add_i.addr;
      for (int unsigned j = 0; j < CiLanes; j++) begin
        logic signed [7:0] code;
        code = add_i.codes[8*j+:8];
        code_q[j] <= code;
        square_q[j] <= SquareBits'(16'(code) * 16'(code));
      end
    end
    if (sum_q) begin
      write_addr_q <= sum_addr_q;
      write_data_q <= sum;
    end
    written_addr_q <= write_addr_q;
    written_data_q <= write_data_q;
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(AddInMemory, !add_i.valid || (32'(add_i.addr) < StatisticWords))
      `SCANLINE_ASSERT(ReadInMemory, !read_i || (32'(read_addr_i) < StatisticWords))
      `SCANLINE_ASSERT(ReadAlone, !read_i || !(add_i.valid || sum_q || write_q))
    end
  end
`endif
endmodule
