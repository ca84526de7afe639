// The rolling buffers' descriptors and tokens: what each is, how many rows are finished, freed and stored.
module buffer_table
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    // BUFFER: configure and start at row 0
    input  logic set_i,
    input  logic [BufferBits-1:0] set_id_i,
    input  buffer_config_t set_config_i,
    // views, combinational
    input  logic [BufferBits-1:0] load_id_i,
    output buffer_view_t load_view_o,
    input  logic [BufferBits-1:0] source_id_i,
    output buffer_view_t source_view_o,
    input  logic [BufferBits-1:0] destination_id_i,
    output buffer_view_t destination_view_o,
    input  logic [BufferBits-1:0] add_id_i,
    output buffer_view_t add_view_o,
    input  logic [BufferBits-1:0] store_id_i,
    output buffer_view_t store_view_o,
    // producers claim the next row, later report it finished
    input  logic load_claim_i,
    input  logic conv_claim_i,
    input  logic load_done_i,
    input  logic [BufferBits-1:0] load_done_id_i,
    input  logic conv_done_i,
    input  logic [BufferBits-1:0] conv_done_id_i,
    // consumers free rows: every row below the given one
    input  logic front_free_i,
    input  logic [BufferBits-1:0] front_free_id_i,
    input  logic [15:0] front_free_to_i,
    input  logic free_source_i,
    input  logic [BufferBits-1:0] free_source_id_i,
    input  logic [15:0] free_source_to_i,
    input  logic free_add_i,
    input  logic [BufferBits-1:0] free_add_id_i,
    input  logic [15:0] free_add_to_i,
    input  logic store_claim_i,
    input  logic store_free_i,
    input  logic [15:0] store_free_to_i
);
  buffer_config_t cfg_q[Buffers];
  logic [15:0] next_row_q[Buffers], next_slot_q[Buffers], done_q[Buffers], stored_q[Buffers];
  logic [15:0] freed_conv_q[Buffers], freed_store_q[Buffers];

  // With two consumers a row is free when both have let it go; with none it is never.
  function automatic logic [15:0] freed(input logic by_conv, input logic by_store, input logic [15:0] conv,
                                        input logic [15:0] store);
    if (by_conv && by_store) return (conv < store) ? conv : store;
    if (by_conv) return conv;
    if (by_store) return store;
    return '0;
  endfunction

  function automatic buffer_view_t view(
      input buffer_config_t cfg, input logic [15:0] next_row, input logic [15:0] next_slot, input logic [15:0] done,
      input logic [15:0] conv, input logic [15:0] store, input logic [15:0] stored);
    view.cfg       = cfg;
    view.next_row  = next_row;
    view.next_slot = next_slot;
    view.done      = done;
    view.freed     = freed(cfg.freed_by_conv, cfg.freed_by_store, conv, store);
    view.stored    = stored;
  endfunction

  assign load_view_o = view(cfg_q[load_id_i], next_row_q[load_id_i], next_slot_q[load_id_i], done_q[load_id_i],
                            freed_conv_q[load_id_i], freed_store_q[load_id_i], stored_q[load_id_i]);
  assign source_view_o = view(cfg_q[source_id_i], next_row_q[source_id_i], next_slot_q[source_id_i],
                              done_q[source_id_i], freed_conv_q[source_id_i], freed_store_q[source_id_i],
                              stored_q[source_id_i]);
  assign destination_view_o = view(cfg_q[destination_id_i], next_row_q[destination_id_i],
                                   next_slot_q[destination_id_i], done_q[destination_id_i],
                                   freed_conv_q[destination_id_i], freed_store_q[destination_id_i],
                                   stored_q[destination_id_i]);
  assign add_view_o = view(cfg_q[add_id_i], next_row_q[add_id_i], next_slot_q[add_id_i], done_q[add_id_i],
                           freed_conv_q[add_id_i], freed_store_q[add_id_i], stored_q[add_id_i]);
  assign store_view_o = view(cfg_q[store_id_i], next_row_q[store_id_i], next_slot_q[store_id_i], done_q[store_id_i],
                             freed_conv_q[store_id_i], freed_store_q[store_id_i], stored_q[store_id_i]);

  function automatic logic [15:0] next_slot(input logic [15:0] slot, input logic [15:0] rows);
    return (slot + 16'd1 == rows) ? '0 : slot + 16'd1;
  endfunction

  // A buffer has one producer and is configured only while idle, so no two of these touch the same field at once.
  always_ff @(posedge clk_i) begin
    if (load_claim_i) begin
      next_row_q[load_id_i]  <= next_row_q[load_id_i] + 16'd1;
      next_slot_q[load_id_i] <= next_slot(next_slot_q[load_id_i], cfg_q[load_id_i].rows);
    end
    if (conv_claim_i) begin
      next_row_q[destination_id_i]  <= next_row_q[destination_id_i] + 16'd1;
      next_slot_q[destination_id_i] <= next_slot(next_slot_q[destination_id_i], cfg_q[destination_id_i].rows);
    end
    if (load_done_i) done_q[load_done_id_i] <= done_q[load_done_id_i] + 16'd1;
    if (conv_done_i) done_q[conv_done_id_i] <= done_q[conv_done_id_i] + 16'd1;
    if (front_free_i) freed_conv_q[front_free_id_i] <= front_free_to_i;
    if (free_source_i) freed_conv_q[free_source_id_i] <= free_source_to_i;
    if (free_add_i) freed_conv_q[free_add_id_i] <= free_add_to_i;
    if (store_claim_i) stored_q[store_id_i] <= stored_q[store_id_i] + 16'd1;
    if (store_free_i) freed_store_q[store_id_i] <= store_free_to_i;
    if (set_i) begin
      cfg_q[set_id_i]         <= set_config_i;
      next_row_q[set_id_i]    <= '0;
      next_slot_q[set_id_i]   <= '0;
      done_q[set_id_i]        <= '0;
      freed_conv_q[set_id_i]  <= '0;
      freed_store_q[set_id_i] <= '0;
      stored_q[set_id_i]      <= '0;
    end
  end
endmodule
