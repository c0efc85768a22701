package sqlrotate

// CommandSource is what [NewCommandSource] puts behind its cache.
func CommandSource(command []string, opt CommandOptions) (Source, error) {
	return newCommandSource(command, opt)
}
