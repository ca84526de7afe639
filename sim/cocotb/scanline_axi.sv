// scanline_top with the signals that AXI makes optional and cocotbext-axi expects: one transaction ID, always 0.
module scanline_axi
  import scanline_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    output logic interrupt_o,
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
    output logic [0:0] m_axi_awid,
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
    input  logic [0:0] m_axi_bid,
    input  logic m_axi_bvalid,
    output logic m_axi_bready,
    input  logic [1:0] m_axi_bresp,
    output logic [0:0] m_axi_arid,
    output logic m_axi_arvalid,
    input  logic m_axi_arready,
    output logic [39:0] m_axi_araddr,
    output logic [7:0] m_axi_arlen,
    output logic [2:0] m_axi_arsize,
    output logic [1:0] m_axi_arburst,
    input  logic [0:0] m_axi_rid,
    input  logic m_axi_rvalid,
    output logic m_axi_rready,
    input  logic [BusBits-1:0] m_axi_rdata,
    input  logic [1:0] m_axi_rresp,
    input  logic m_axi_rlast
);
  assign m_axi_awid = '0;
  assign m_axi_arid = '0;
  logic unused;
  assign unused = ^{m_axi_bid, m_axi_rid};

  scanline_top u_scanline (.activity_o(), .*);
endmodule
