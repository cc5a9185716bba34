"""Parts of methods: choosing stages and layers, spatial maps."""
